//! The body of an answer that must not outlive the credential it was asked with.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as Poller, Poll};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::actor::Actor;
use crate::connection::Cut;
use crate::context::Context;
use crate::service::credential_watch;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that ends with an error, and its connection with it, when the credential ends.
pub(crate) struct RevocableBody<B> {
    body: B,
    revoked: Arc<Revoked>,
    /// Ends the watch with the body.
    _watch: DropGuard,
}

#[derive(Default)]
struct Revoked {
    is: AtomicBool,
    task: AtomicWaker,
}

impl<B> RevocableBody<B> {
    /// Watches the actor's credential for as long as the body lasts. `cut` is the connection's, where it carries nothing else at a time.
    pub(crate) fn new(ctx: &Arc<Context>, actor: Arc<Actor>, cut: Option<Cut>, body: B) -> Self {
        let (revoked, end) = (Arc::new(Revoked::default()), CancellationToken::new());
        let watch = watch(ctx.clone(), actor, cut, revoked.clone(), end.clone());
        ctx.tasks.spawn(watch);
        Self { body, revoked, _watch: end.drop_guard() }
    }
}

async fn watch(ctx: Arc<Context>, actor: Arc<Actor>, cut: Option<Cut>, revoked: Arc<Revoked>, end: CancellationToken) {
    tokio::select! {
        // In any order: each ends the watch.
        () = end.cancelled() => {}
        () = ctx.stop.cancelled() => {}
        () = credential_watch::lost(&ctx, &actor) => {
            revoked.is.store(true, Ordering::Release);
            revoked.task.wake();
            if let Some(cut) = cut {
                cut.cut();
            }
        }
    }
}

impl<B> Body for RevocableBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.revoked.task.register(cx.waker());
        if self.revoked.is.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err("the credential of this request ended".into())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
