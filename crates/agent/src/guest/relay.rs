//! Passes a request to envd and its answer back, streaming both ways. Reads nothing of either.

use crate::failure::cause;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::WaitForCancellationFutureOwned;
use wrenn_contract::guest::{TOKEN_HEADER, is_open_to_users};
use wrenn_contract::hop_by_hop::remove_hop;
use wrenn_contract::host::{AUTH_HEADER, RELAY_ERROR_HEADER, RELAYED_HEADER, RelayError};
use wrenn_domain::limits::RELAY_CALLS_MAX;

use super::dial::GuestClient;
use super::host_pool::HostPool;

/// Relays one request whose path is `path_and_query` inside the guest.
///
/// # Errors
/// The path is the agent's own, the guest does not run or answer, or it has as many calls under way as allowed.
pub async fn relay(
    client: &GuestClient,
    path_and_query: &str,
    request: Request<Body>,
    activity: Arc<dyn Fn() + Send + Sync>,
    pool: &HostPool,
) -> Result<Response<Body>, RelayError> {
    let path = path_and_query.split('?').next().unwrap_or_default();
    // Identity, tokens and captures are the agent's business alone.
    if !is_open_to_users(path) {
        return Err(RelayError::NotFound);
    }
    let permit = client.permit(pool.share(RELAY_CALLS_MAX)).ok_or(RelayError::Busy)?;
    let host_permit = pool.permit().ok_or(RelayError::Busy)?;
    activity();
    let heard = activity.clone();
    let mut request = request.map(|body| Body::new(Heard { body, activity: heard }));
    *request.uri_mut() = path_and_query.parse().map_err(|_| RelayError::NotFound)?;
    *request.version_mut() = http::Version::HTTP_11;
    let had_length = request.headers().contains_key(CONTENT_LENGTH);
    remove_hop(request.headers_mut());
    for name in [HOST, EXPECT, HeaderName::from_static(AUTH_HEADER), HeaderName::from_static(TOKEN_HEADER)] {
        request.headers_mut().remove(name);
    }
    if !had_length && request.body().is_end_stream() {
        request.headers_mut().insert(CONTENT_LENGTH, 0.into());
    }
    let response = tokio::select! {
        biased;
        () = client.gone().cancelled() => return Err(RelayError::NotRunning),
        response = client.send(request) => response.map_err(|error| {
            tracing::debug!(error = cause(&error), "a guest did not answer");
            RelayError::Unresponsive
        })?,
    };
    let (mut parts, body) = response.into_parts();
    remove_hop(&mut parts.headers);
    mark_relayed(&mut parts.headers);
    let gone = Box::pin(client.gone().clone().cancelled_owned());
    let body = Body::new(Counted { body, gone, activity, _permits: (permit, host_permit) });
    Ok(Response::from_parts(parts, body))
}

/// Makes an answer of a guest known as one: the relay's own words are taken out of it.
fn mark_relayed(headers: &mut HeaderMap) {
    headers.remove(RELAY_ERROR_HEADER);
    headers.insert(RELAYED_HEADER, HeaderValue::from_static("1"));
}

/// The sandbox was paused, crashed or was deleted in the middle of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the guest is no longer running")]
struct Gone;

/// A request's body: counts as activity whenever some of it comes.
struct Heard {
    body: Body,
    activity: Arc<dyn Fn() + Send + Sync>,
}

impl hyper::body::Body for Heard {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(_)) = polled {
            (self.activity)();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body: holds the call's permits and counts as activity for as long as it lasts.
struct Counted {
    body: Incoming,
    /// Ends it when the guest does.
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    activity: Arc<dyn Fn() + Send + Sync>,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // What the guest said before its end still passes.
        let polled = Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into);
        if polled.is_pending() && self.gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Gone.into())));
        }
        if polled.is_ready() {
            (self.activity)();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use wrenn_contract::guest::{INIT, SNAPSHOT_FREEZE, SNAPSHOT_PREPARE, TUNNEL};

    use super::*;

    #[test]
    fn only_paths_of_users_pass_however_others_are_written() {
        for path in [
            INIT,
            SNAPSHOT_PREPARE,
            SNAPSHOT_FREEZE,
            TUNNEL,
            "//init",
            "/./init",
            "/%69nit",
            "/%49nit",
            "/in%69t",
            "/init/",
            "/x/../init",
            "/files/../init",
            "/files/",
            "/process.Process/../init",
            "/process.Process/..%2finit",
            "/process.Process/",
            "/",
            "",
        ] {
            assert!(!is_open_to_users(path), "{path} would pass");
        }
        for path in
            ["/files", "/process.Process/Start", "/filesystem.Filesystem/ListDir", "/health", "/metrics", "/activity"]
        {
            assert!(is_open_to_users(path), "{path} is refused");
        }
    }

    #[test]
    fn a_guest_cannot_speak_as_the_relay() {
        let mut headers = HeaderMap::new();
        for forged in ["not_running", "busy"] {
            headers.append(RELAY_ERROR_HEADER, HeaderValue::from_static(forged));
            headers.append(RELAYED_HEADER, HeaderValue::from_static(forged));
        }
        mark_relayed(&mut headers);
        assert!(!headers.contains_key(RELAY_ERROR_HEADER));
        assert_eq!(headers.get_all(RELAYED_HEADER).iter().collect::<Vec<_>>(), ["1"]);
    }
}
