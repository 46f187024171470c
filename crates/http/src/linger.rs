//! Lingering: the body of a request that was answered early is read off for a while.
//!
//! A server that answers and closes while its client is still sending has the kernel reset the connection, and the
//! client learns of a broken pipe instead of the reason (RFC 9112, section 9.6).

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use wrenn_domain::limits::{REFUSED_BODY_PAUSE, REFUSED_BODY_QUICK_BYTES, REFUSED_BODY_WAIT_MAX};

/// Has the rest of an HTTP/1 request's body read off when its handler drops it. Not for HTTP/2, which can end one
/// direction of a stream alone.
pub fn linger<B>(request: Request<B>) -> Request<Lingering<B>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let is_awaited = !expects_continue(request.headers());
    request.map(|body| Lingering { body: Some(body), is_awaited })
}

/// The client sends nothing before it is told to.
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A body that does not just go away. See [`linger`].
#[derive(Debug)]
pub struct Lingering<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// None once nothing more comes of it.
    body: Option<B>,
    /// Somebody asked for it, or nobody has to: asking for the first piece is what has the server say 100 Continue.
    is_awaited: bool,
}

impl<B> Body for Lingering<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.is_awaited = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> Drop for Lingering<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        if body.is_end_stream() || !self.is_awaited {
            return;
        }
        // Bounded by the connections: each has one body under way. Without a runtime the connection is gone, too.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(REFUSED_BODY_WAIT_MAX, read_off(body)));
        }
    }
}

/// Quickly at first: most clients look up only when they have sent everything. Then a piece now and then: those that
/// read while they write look up when they cannot write, so they must come to that before the connection is cut.
async fn read_off<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    let mut bytes = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx).map(|frame| frame?.ok())).await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > REFUSED_BODY_QUICK_BYTES {
            sleep(REFUSED_BODY_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests;
