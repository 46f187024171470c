//! The end of an account: at once for its owner, for good after a while.

use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::limits::ACCOUNT_KEPT;
use wrenn_store::pg::{Departure, NewAudit, User};

use super::accounts::gone;
use super::rates::{self, Limited};
use super::{Person, ServiceError, sessions};
use crate::context::Context;
use crate::extension::hooks::AccountEnd;
use crate::fault::FaultPoint;
use crate::mail::{Letter, Mail};

/// Deletes the caller's account, if they confirm it with its address.
pub async fn delete(ctx: &Context, person: &Person, confirmation: &str) -> Result<(), ServiceError> {
    rates::take_account(ctx, Limited::DeleteAccount, &person.user.to_string()).await?;
    if !confirmation.trim().eq_ignore_ascii_case(&person.email) {
        return Err(Failure::invalid("confirmation: type the account's e-mail address").into());
    }
    let author = person.author();
    let audit = |team| NewAudit::new(team, author.clone(), "team", "delete").on(team).warning();
    let mail = Mail::Letter(Letter::account_deleted(&person.email, &person.name)).owed();
    let owed: Vec<_> = AccountEnd::Soft { user: person.user }.owed(ctx).into_iter().chain([mail]).collect();
    let ended = match ctx.store.user_depart(person.user, &author, audit, &owed).await? {
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
    sessions::forget(ctx, &ended).await;
    wake(ctx);
    tracing::info!(user = %person.user, "{} is deleted and will be purged", person.user);
    Ok(())
}

/// Purges every account whose time is over. Answers how many.
pub async fn purge(ctx: &Context) -> Result<usize, ServiceError> {
    let owed = |user: &User| {
        let mail = Mail::Letter(Letter::account_purged(&user.email, &user.name)).owed();
        AccountEnd::Hard { user: user.id }.owed(ctx).into_iter().chain([mail]).collect()
    };
    let mut count = 0;
    while let Some(user) = ctx.store.user_purge_one(ACCOUNT_KEPT.as_secs_f64(), owed).await? {
        ctx.faults.reach(FaultPoint::AccountPurged).await;
        wake(ctx);
        tracing::info!(user = %user.id, "{} is purged", user.id);
        count += 1;
    }
    Ok(count)
}

/// What was owed may be done now.
fn wake(ctx: &Context) {
    ctx.mails.wake();
    ctx.account_hooks.wake();
}
