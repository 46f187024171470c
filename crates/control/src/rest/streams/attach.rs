//! `GET /v1/capsules/{id}/processes/{selector}/stream` (WebSocket): what a process printed lately, then what it prints.
//!
//! ```text
//! server: start, (stdout | stderr)*, exit     or error, at any moment, then close
//! ```
//! Closing the socket leaves the process alone.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use wrenn_contract::rest::error::ErrorBody;

use super::super::extract::{Caller, CapsuleId, Params, SelectorText};
use super::super::processes::selector;
use super::print::{Form, Until, print};
use super::socket::{Conversation, End, Incoming, Session, Upgrade, serve};
use crate::answer::ApiError;
use crate::context::Context;
use crate::service::streams::Selector;

/// Query of the attach route.
#[derive(Deserialize, utoipa::IntoParams)]
pub(in crate::rest) struct Attach {
    /// false: close once the recent output was sent. Default: stay until the process ends.
    follow: Option<bool>,
    /// true: output as binary frames (first byte 1 = stdout, 2 = stderr, rest verbatim) instead of JSON text.
    binary: Option<bool>,
}

/// Follow a process over a WebSocket
///
/// By pid or tag: first what it printed lately (256 KiB at most), then what it prints, also of one that ended within the last minute.
/// Several may follow one process; the slowest sets its pace. Failures after the upgrade come as `{"type":"error"}`.
#[utoipa::path(get, path = "/v1/capsules/{id}/processes/{selector}/stream", tag = "processes", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters"),
        ("selector" = String, Path, description = "All digits: a pid; else a tag"), Attach),
    responses((status = 101, description = "WebSocket: frames as ExecServerFrame"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(in crate::rest) async fn process_stream(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    capsule: Result<CapsuleId, ApiError>,
    process: Result<SelectorText, ApiError>,
    query: Result<Params<Attach>, ApiError>,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let conversation = || {
        let (SelectorText(text), Params(query)) = (process?, query?);
        Ok(Following {
            selector: selector(&text)?,
            form: if query.binary.unwrap_or(false) { Form::Binary } else { Form::Text },
            until: if query.follow.unwrap_or(true) { Until::End } else { Until::CaughtUp },
        })
    };
    serve(ctx, actor, capsule.map(|CapsuleId(id)| id), upgrade, conversation())
}

struct Following {
    selector: Selector,
    form: Form,
    until: Until,
}

impl Conversation for Following {
    const CLIENT_BEGINS: bool = false;

    async fn hold(self, session: &Session<'_>, from: &mut Incoming) -> Result<(), End> {
        let live = session.inside.attach(&self.selector).await?;
        // In any order: each waits for another party.
        tokio::select! {
            done = print(session, self.form, live, self.until) => done,
            left = hear(from) => left,
        }
    }

    fn failure(text: String) -> String {
        super::exec::failure(text)
    }
}

/// Waits for the client to leave. It has nothing to say.
async fn hear(from: &mut Incoming) -> Result<(), End> {
    loop {
        from.next().await?;
    }
}
