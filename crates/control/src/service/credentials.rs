//! Changing and resetting passwords. Every change ends every session of the account.

use wrenn_domain::account::{Email, Password};
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::PLATFORM_TEAM;
use wrenn_store::pg::{NewAudit, NewErrand, User};

use super::accounts::{author_of, gone, token_hash};
use super::passwords::Checked;
use super::rates::{self, Limited};
use super::{Person, ServiceError, sessions};
use crate::auth::address::ClientAddress;
use crate::context::Context;
use crate::mail::{Letter, Mail};

/// A wish to change one's password.
#[derive(Debug, Clone)]
pub struct ChangePassword {
    /// What the password is now; needed when there is one.
    pub current: Option<String>,
    pub new: Password,
    /// The new one typed again; needed when there is none yet.
    pub confirmed: Option<String>,
}

/// Changes a password, or gives an account its first.
pub async fn change(ctx: &Context, person: &Person, wish: ChangePassword) -> Result<(), ServiceError> {
    rates::take_account(ctx, Limited::ChangePassword, &person.user.to_string()).await?;
    let user = ctx.store.user_get(person.user).await?.ok_or_else(gone)?;
    match (&user.password_hash, &wish.current) {
        (Some(stored), Some(current)) => {
            if ctx.passwords.check(Some(stored), current).await? == Checked::Wrong {
                return Err(Failure::new(FailureKind::Unauthorized, "the current password is wrong").into());
            }
        }
        (Some(_), None) => return Err(Failure::invalid("current_password is required").into()),
        (None, _) => {
            if wish.confirmed.as_deref() != Some(wish.new.reveal()) {
                return Err(Failure::invalid("confirm_password must be the new password again").into());
            }
        }
    }
    let hash = ctx.passwords.hash(&wish.new).await?;
    let audit = audit(&user, "password_change");
    let owed = notice(&user);
    let seen = user.password_hash.as_deref();
    if !ctx.store.password_change(user.id, seen, &hash, &[audit], std::slice::from_ref(&owed)).await? {
        let text = "the password was changed by somebody else meanwhile; try again with that one";
        return Err(Failure::new(FailureKind::Conflict, text).into());
    }
    ctx.mails.wake_for(owed.id);
    sessions::forget_user(ctx, user.id).await;
    Ok(())
}

/// Has a reset link sent if there is an active account. Always the same answer, after the same work: whether there is one is
/// looked at when the mail is to leave.
pub async fn ask_reset(ctx: &Context, from: ClientAddress, email: &Email) -> Result<(), ServiceError> {
    rates::take_address(ctx, Limited::AskReset, from).await?;
    rates::take_account(ctx, Limited::AskReset, email.as_str()).await?;
    let owed = Mail::reset(email).owed();
    ctx.store.errand_put(&owed).await?;
    ctx.mails.wake_for(owed.id);
    Ok(())
}

/// Sets a new password by a mailed token, which works once.
pub async fn confirm_reset(
    ctx: &Context,
    from: ClientAddress,
    token: &str,
    new: &Password,
) -> Result<(), ServiceError> {
    rates::take_address(ctx, Limited::ConfirmReset, from).await?;
    let over = || Failure::invalid("this reset link is not valid any more; ask for a new one");
    let token = token_hash(token).ok_or_else(over)?;
    let hash = ctx.passwords.hash(new).await?;
    let reset = ctx.store.password_reset(&token, &hash, |user| audit(user, "password_reset"), notice).await?;
    let user = reset.ok_or_else(over)?;
    ctx.mails.wake();
    sessions::forget_user(ctx, user.id).await;
    // Who can read the account's mail need not wait for a guesser's tries to be over.
    rates::forgive_account(ctx, Limited::Login, &user.email).await?;
    Ok(())
}

fn audit(user: &User, action: &'static str) -> NewAudit {
    NewAudit::new(PLATFORM_TEAM, author_of(user), "user", action).on(user.id).for_admins()
}

fn notice(user: &User) -> NewErrand {
    Mail::Letter(Letter::password_changed(&user.email, &user.name)).owed()
}
