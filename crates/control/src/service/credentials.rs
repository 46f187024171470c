//! Changing and resetting passwords. Every change ends every session of the account.

use wrenn_domain::account::{Email, Password};
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::PLATFORM_TEAM;
use wrenn_store::pg::{NewAudit, NewOutboundJob, User};

use super::accounts;
use super::accounts::{author_of, gone, token_hash};
use super::rates::{self, Limited};
use super::revocation;
use crate::actor::Person;
use crate::client_address::ClientAddress;
use crate::context::Context;
use crate::error::ServiceError;
use crate::mail::{Letter, Mail};
use crate::passwords::Checked;

/// A wish to change one's password.
#[derive(Debug, Clone)]
pub struct ChangePassword {
    /// Password as it is now; needed when there is one.
    pub current: Option<String>,
    pub new: Password,
    /// The new one typed again; needed when there is none yet.
    pub confirmed: Option<String>,
}

/// Changes a password, or gives an account its first.
///
/// # Errors
/// When the current password is wrong, it is tried too often, or the database is away.
pub async fn change(ctx: &Context, person: &Person, request: ChangePassword) -> Result<(), ServiceError> {
    rates::take_account(ctx, Limited::ChangePassword, &person.user.to_string()).await?;
    let user = ctx.store.user_get(person.user).await?.ok_or_else(gone)?;
    let party = person.user.to_string();
    match (&user.password_hash, &request.current) {
        (Some(stored), Some(current)) => {
            if ctx.passwords.check(&party, Some(stored), current).await? == Checked::Wrong {
                return Err(Failure::new(FailureKind::Unauthorized, "the current password is wrong").into());
            }
        }
        (Some(_), None) => return Err(Failure::invalid("current_password is required").into()),
        (None, _) => {
            if request.confirmed.as_deref() != Some(request.new.reveal()) {
                return Err(Failure::invalid("confirm_password must be the new password again").into());
            }
        }
    }
    let hash = ctx.passwords.hash(&party, &request.new).await?;
    let audit = audit(&user, "password_change");
    let job = notice(&user);
    let seen = user.password_hash.as_deref();
    if !ctx.store.password_change(user.id, seen, &hash, &[audit], std::slice::from_ref(&job)).await? {
        let text = "the password was changed by somebody else meanwhile; try again with that one";
        return Err(Failure::new(FailureKind::Conflict, text).into());
    }
    ctx.queues.mails.wake_for(job.id);
    revocation::forget_user(ctx, user.id).await;
    Ok(())
}

/// Has a reset link sent if there is an active account. Always the same answer, after the same work: whether there is one is
/// looked at when the mail is to leave.
///
/// # Errors
/// When it is tried too often, the values are not valid, or the database is away.
pub async fn ask_reset(ctx: &Context, from: ClientAddress, email: &Email) -> Result<(), ServiceError> {
    rates::take_address(ctx, Limited::AskReset, from).await?;
    rates::take_account(ctx, Limited::AskReset, email.as_str()).await?;
    let job = Mail::reset(email).outbound_job();
    ctx.store.outbound_job_put(&job).await?;
    ctx.queues.mails.wake_for(job.id);
    Ok(())
}

/// Sets a new password by a mailed token, which works once.
///
/// # Errors
/// When the token is over, it is tried too often, or the database is away.
pub async fn confirm_reset(
    ctx: &Context,
    from: ClientAddress,
    token: &str,
    new: &Password,
) -> Result<(), ServiceError> {
    rates::take_address(ctx, Limited::ConfirmReset, from).await?;
    let over = || Failure::invalid("this reset link is not valid any more; ask for a new one");
    let token = token_hash(token).ok_or_else(over)?;
    let hash = ctx.passwords.hash(&from.network(), new).await?;
    let reset = ctx.store.password_reset(&token, &hash, |user| audit(user, "password_reset"), notice).await?;
    let user = reset.ok_or_else(over)?;
    ctx.queues.mails.wake();
    revocation::forget_user(ctx, user.id).await;
    // Who can read the account's mail need not wait for a guesser's tries to be over.
    rates::forgive_account(ctx, Limited::Login, &accounts::at_network(&user.email, from)).await?;
    rates::forgive_account(ctx, Limited::LoginAnywhere, &user.email).await?;
    Ok(())
}

fn audit(user: &User, action: &'static str) -> NewAudit {
    NewAudit::new(PLATFORM_TEAM, author_of(user), "user", action).on(user.id).for_admins()
}

fn notice(user: &User) -> NewOutboundJob {
    Mail::Letter(Letter::password_changed(&user.email, &user.name)).outbound_job()
}
