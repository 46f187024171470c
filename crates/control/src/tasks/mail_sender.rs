//! Sends the mails that wait, a few at once, each with some tries. What still fails is in the log.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wrenn_domain::limits::MAIL_TRIES_MAX;

use crate::causes::chain;
use crate::context::Context;
use crate::mail::{Delivery, Letter};

/// Mails under way at once: one slow server must not hold up all.
const SENDING_MAX: usize = 8;
const PAUSE_MIN: Duration = Duration::from_secs(2);

pub(super) async fn run(ctx: Arc<Context>) {
    let Some(mut queue) = ctx.mailer.take_queue() else {
        tracing::error!("mails have their sender already");
        return;
    };
    let delivery = match Delivery::new(&ctx.config.accounts) {
        Ok(delivery) => Arc::new(delivery),
        Err(error) => {
            tracing::error!(error = %chain(&error), "no mail can be sent; check SMTP_HOST");
            return std::future::pending().await;
        }
    };
    tracing::info!("mails go {}", delivery.describe());
    let hands = Arc::new(Semaphore::new(SENDING_MAX));
    while let Some(letter) = queue.recv().await {
        let hand = hands.clone().acquire_owned().await;
        let (delivery, stop) = (delivery.clone(), ctx.stop.clone());
        ctx.tasks.spawn(async move {
            // A try under way at the end of the process is finished; only the pauses between tries are cut.
            send(&delivery, &letter, &stop).await;
            drop(hand);
        });
    }
}

async fn send(delivery: &Delivery, letter: &Letter, stop: &tokio_util::sync::CancellationToken) {
    let mut pause = PAUSE_MIN;
    for left in (0..MAIL_TRIES_MAX).rev() {
        let error = match delivery.deliver(letter).await {
            Ok(()) => {
                tracing::debug!(mail = letter.kind(), "a mail left");
                return;
            }
            Err(error) => error,
        };
        if left == 0 || error.is_final() || stop.is_cancelled() {
            tracing::error!(mail = letter.kind(), error = %chain(&error), "a mail is lost");
            return;
        }
        tracing::warn!(mail = letter.kind(), error = %chain(&error), "a mail did not leave; trying again");
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause *= 3;
    }
}
