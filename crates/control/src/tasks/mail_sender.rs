//! Sends the mails that are owed, a few at once, again until one left or was tried often enough.
//!
//! A mail whose process dies after the server took it is sent again, with the same message id.

use std::sync::Arc;

use wrenn_domain::limits::MAIL_TRIES_MAX;
use wrenn_store::StoreError;
use wrenn_store::pg::{OutboundJob, OutboundJobKind};

use super::work::{self, Next, renew_while, settle};
use crate::context::Context;
use crate::error::ServiceError;
use crate::error_chain::chain;
use crate::fault::FaultPoint;
use crate::mail::{Delivery, DeliveryError};
use crate::service::mails;

pub(super) async fn run(ctx: Arc<Context>) {
    let delivery = match Delivery::new(&ctx.config.accounts, ctx.tuning.mail_send) {
        Ok(delivery) => Arc::new(delivery),
        Err(error) => {
            tracing::error!(error = %chain(&error), "no mail can be sent; check SMTP_HOST");
            return std::future::pending().await;
        }
    };
    tracing::info!("mails go {}", delivery.describe());
    work::run(ctx, OutboundJobKind::Mail, move |ctx, job| drive(ctx, job, delivery.clone())).await;
}

async fn drive(ctx: Arc<Context>, job: OutboundJob, delivery: Arc<Delivery>) {
    ctx.faults.reach(FaultPoint::MailClaimed).await;
    if let Some(next) = renew_while(&ctx, OutboundJobKind::Mail, job.id, step(&ctx, &job, &delivery)).await {
        settle(&ctx, OutboundJobKind::Mail, job.id, next).await;
    }
}

/// Why a try did not work.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error("the mail cannot be written now")]
    Write(#[source] ServiceError),
    #[error("the mail did not leave")]
    Deliver(#[source] DeliveryError),
    #[error("its process died in every try")]
    Deadly,
}

async fn step(ctx: &Context, job: &OutboundJob, delivery: &Delivery) -> Result<Next, StoreError> {
    let id = job.id;
    let sent = if job.attempts > MAIL_TRIES_MAX { Err(TryError::Deadly) } else { send(ctx, job, delivery).await };
    match sent {
        Ok(()) => {
            ctx.store.outbound_job_finish(id).await?;
            Ok(Next::Over)
        }
        Err(error) => {
            let is_final = matches!(&error, TryError::Deliver(error) if error.is_final());
            let (attempt, error) = (job.attempts, chain(&error));
            if is_final || attempt >= MAIL_TRIES_MAX {
                tracing::error!(mail = %id, attempt, error, "the mail {id} is given up");
                ctx.store.outbound_job_give_up(id, &error).await?;
                return Ok(Next::Over);
            }
            tracing::warn!(mail = %id, attempt, error, "the mail {id} waits for another try");
            Ok(Next::Retry(attempt))
        }
    }
}

async fn send(ctx: &Context, job: &OutboundJob, delivery: &Delivery) -> Result<(), TryError> {
    let written = mails::write(ctx, job.id, &job.payload).await.map_err(TryError::Write)?;
    let Some(letter) = written else { return Ok(()) };
    ctx.faults.reach(FaultPoint::MailWritten).await;
    delivery.deliver(&letter, job.id.uuid()).await.map_err(TryError::Deliver)?;
    ctx.faults.reach(FaultPoint::MailSent).await;
    tracing::debug!(mail = %job.id, kind = letter.kind(), "the mail {} left", job.id);
    Ok(())
}
