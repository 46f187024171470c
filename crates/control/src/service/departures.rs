//! The end of an account: at once for its owner, for good after a while.

use wrenn_domain::account::Email;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::limits::ACCOUNT_KEPT;
use wrenn_store::StoreError;
use wrenn_store::pg::{Departure, NewAudit};

use super::accounts::gone;
use super::rates::{self, Limited};
use super::{Person, ServiceError, sessions};
use crate::context::Context;
use crate::extension::hooks;
use crate::mail::Letter;

/// Deletes the caller's account, if they confirm it with its address.
pub async fn delete(ctx: &Context, person: &Person, confirmation: &str) -> Result<(), ServiceError> {
    rates::take_account(ctx, Limited::DeleteAccount, &person.user.to_string()).await?;
    if !confirmation.trim().eq_ignore_ascii_case(&person.email) {
        return Err(Failure::invalid("confirmation: type the account's e-mail address").into());
    }
    let author = person.author();
    let audit = |team| NewAudit::new(team, author.clone(), "team", "delete").on(team).warning();
    let ended = match ctx.store.user_depart(person.user, &author, audit).await? {
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
    hooks::on_account_soft_delete(ctx, person.user);
    if let Ok(email) = person.email.parse::<Email>() {
        ctx.mailer.send(Letter::account_deleted(&email, &person.name));
    }
    tracing::info!(user = %person.user, "{} is deleted and will be purged", person.user);
    Ok(())
}

/// Purges every account whose time is over. Answers how many.
pub async fn purge(ctx: &Context) -> Result<usize, StoreError> {
    let mut count = 0;
    while let Some(user) = ctx.store.user_purge_one(ACCOUNT_KEPT.as_secs_f64()).await? {
        hooks::on_account_hard_delete(ctx, user.id);
        if let Ok(email) = user.email.parse::<Email>() {
            ctx.mailer.send(Letter::account_purged(&email, &user.name));
        }
        tracing::info!(user = %user.id, "{} is purged", user.id);
        count += 1;
    }
    Ok(count)
}
