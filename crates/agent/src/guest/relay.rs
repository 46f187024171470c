//! Passes a request to envd and its answer back, streaming both ways. Reads nothing of either.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderName};
use http::{Request, Response};
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::WaitForCancellationFutureOwned;
use wrenn_contract::guest::{INIT, SNAPSHOT_PREPARE, TOKEN_HEADER, TUNNEL};
use wrenn_contract::hop::remove_hop;
use wrenn_contract::host::{AUTH_HEADER, RelayError};

use super::dial::GuestClient;

/// Relays one request whose path is `path_and_query` inside the guest.
pub async fn relay(
    client: &GuestClient,
    path_and_query: &str,
    request: Request<Body>,
    activity: Arc<dyn Fn() + Send + Sync>,
) -> Result<Response<Body>, RelayError> {
    let path = path_and_query.split('?').next().unwrap_or_default();
    // Identity and tokens are the agent's business alone.
    if is_control(path) {
        return Err(RelayError::NotFound);
    }
    let permit = client.permit().ok_or(RelayError::Busy)?;
    activity();
    let told = activity.clone();
    let mut request = request.map(|body| Body::new(Heard { body, activity: told }));
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
            tracing::debug!(error = &error as &dyn std::error::Error, "a guest did not answer");
            RelayError::Unresponsive
        })?,
    };
    let (mut parts, body) = response.into_parts();
    remove_hop(&mut parts.headers);
    let gone = Box::pin(client.gone().clone().cancelled_owned());
    let body = Body::new(Counted { body, gone, activity, _permit: permit });
    Ok(Response::from_parts(parts, body))
}

/// Whether envd would take this path for one of the agent's own, however it is written.
fn is_control(path: &str) -> bool {
    let decoded = path.replace("%2f", "/").replace("%2F", "/").replace("%69", "i").replace("%73", "s");
    let plain: Vec<&str> = decoded.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let joined = format!("/{}", plain.join("/"));
    let own = [INIT, SNAPSHOT_PREPARE, TUNNEL];
    own.iter().any(|path| joined.starts_with(path)) || joined.contains("..") || joined.contains('%')
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

/// An answer's body: holds the call's place and counts as activity for as long as it lasts.
struct Counted {
    body: Incoming,
    /// Ends it when the guest does.
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    activity: Arc<dyn Fn() + Send + Sync>,
    _permit: OwnedSemaphorePermit,
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
    use super::*;

    #[test]
    fn the_agents_own_paths_cannot_be_reached_however_they_are_written() {
        for path in
            ["/init", "//init", "/./init", "/%69nit", "/init/", "/snapshot/prepare", "/x/../init", "/in%69t", "/tunnel"]
        {
            assert!(is_control(path), "{path} would pass");
        }
        for path in ["/files", "/process.Process/Start", "/health", "/metrics"] {
            assert!(!is_control(path), "{path} is refused");
        }
    }
}
