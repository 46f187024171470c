//! The end of an account: at once for its owner, for good after a while.

use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::limits::ACCOUNT_KEPT;
use wrenn_store::pg::{Departure, NewAudit, User};

use super::accounts::gone;
use super::rates::{self, Limited};
use super::revocation;
use crate::actor::Person;
use crate::context::Context;
use crate::error::ServiceError;
use crate::extension::hooks::AccountEnd;
use crate::fault::FaultPoint;
use crate::mail::{Letter, Mail};

/// Deletes the caller's account, if they confirm it with its address.
///
/// # Errors
/// When the confirmation is not the address, the person owns a team of others or is the last admin, or the database is away.
pub async fn delete(ctx: &Context, person: &Person, confirmation: &str) -> Result<(), ServiceError> {
    rates::take_account(ctx, Limited::DeleteAccount, &person.user.to_string()).await?;
    if !confirmation.trim().eq_ignore_ascii_case(&person.email) {
        return Err(Failure::invalid("confirmation: type the account's e-mail address").into());
    }
    let author = person.author();
    let audit = |team| NewAudit::new(team, author.clone(), "team", "delete").on(team).warning();
    let mail = Mail::Letter(Letter::account_deleted(&person.email, &person.name)).outbound_job();
    let job: Vec<_> = AccountEnd::Soft { user: person.user }.outbound_job(ctx).into_iter().chain([mail]).collect();
    let ended = match ctx.store.user_depart(person.user, &author, audit, &job).await? {
        Departure::Done(ended) => ended,
        Departure::Gone => return Err(gone().into()),
        Departure::OwnsTeams => {
            let text = "you own a team others are in; transfer it to one of them, or delete it, first";
            return Err(Failure::new(FailureKind::Conflict, text).into());
        }
        Departure::LastAdmin => {
            let text = "you are the platform's last admin; make another one first";
            return Err(Failure::new(FailureKind::Conflict, text).into());
        }
    };
    revocation::forget(ctx, &ended).await;
    wake(ctx);
    tracing::info!(user = %person.user, "{} is deleted and will be purged", person.user);
    Ok(())
}

/// Purges every account whose time is over. Answers how many.
///
/// # Errors
/// When the database cannot be asked.
pub async fn purge(ctx: &Context) -> Result<usize, ServiceError> {
    let job = |user: &User| {
        let mail = Mail::Letter(Letter::account_purged(&user.email, &user.name)).outbound_job();
        AccountEnd::Hard { user: user.id }.outbound_job(ctx).into_iter().chain([mail]).collect()
    };
    let mut count = 0;
    while let Some(user) = ctx.store.user_purge_one(ACCOUNT_KEPT.as_secs_f64(), job).await? {
        ctx.faults.reach(FaultPoint::AccountPurged).await;
        wake(ctx);
        tracing::info!(user = %user.id, "{} is purged", user.id);
        count += 1;
    }
    Ok(count)
}

/// Wakes the tasks that do what was enqueued.
fn wake(ctx: &Context) {
    ctx.queues.mails.wake();
    ctx.queues.account_hooks.wake();
}
