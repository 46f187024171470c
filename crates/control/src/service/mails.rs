//! Mails on their way out: their words, and the tokens in them. A token is made here, at the last moment, and lies nowhere but in
//! the mail; the database gets its hash.

use serde_json::Value;
use wrenn_domain::account::Email;
use wrenn_domain::ids::OutboundJobId;
use wrenn_domain::limits::{ACTIVATION_AGE_MAX, RESET_AGE_MAX};
use wrenn_domain::secret::Secret;
use wrenn_store::pg::{TokenPurpose, User};

use crate::context::Context;
use crate::error::ServiceError;
use crate::mail::{Letter, Mail};
use crate::random;

/// Writes the letter of a mail that waits. None: there is nothing to say any more.
///
/// # Errors
/// When the system gives no random numbers or the database is away.
pub async fn write(ctx: &Context, job: OutboundJobId, payload: &Value) -> Result<Option<Letter>, ServiceError> {
    let Ok(mail) = serde_json::from_value::<Mail>(payload.clone()) else {
        // Owed by a newer version that was taken back, most likely.
        tracing::error!(mail = %job, "the mail {job} is not one this version knows; it is dropped");
        return Ok(None);
    };
    Ok(match mail {
        Mail::Nothing { .. } => None,
        Mail::Letter(letter) => Some(letter),
        Mail::AlreadySignedUp { to } => Some(Letter::already_signed_up(&to)),
        Mail::Activation { to } => {
            let issued = issue(ctx, job, TokenPurpose::Activation, &to).await?;
            issued.map(|(user, token)| Letter::activation(&to, &user.name, link(ctx, "activate", &token)))
        }
        Mail::Reset { to } => {
            let issued = issue(ctx, job, TokenPurpose::PasswordReset, &to).await?;
            issued.map(|(user, token)| Letter::reset(&to, &user.name, link(ctx, "reset-password", &token)))
        }
    })
}

async fn issue(
    ctx: &Context,
    job: OutboundJobId,
    purpose: TokenPurpose,
    to: &str,
) -> Result<Option<(User, Secret)>, ServiceError> {
    let keep = match purpose {
        TokenPurpose::Activation => ACTIVATION_AGE_MAX,
        TokenPurpose::PasswordReset => RESET_AGE_MAX,
    };
    // It was an address when the mail was owed.
    let Ok(email) = to.parse::<Email>() else { return Ok(None) };
    let token = random::secret()?;
    let user = ctx.store.token_issue(job, purpose, &email, &token.hash(), keep).await?;
    Ok(user.map(|user| (user, token)))
}

/// The page of the frontend that takes a token.
fn link(ctx: &Context, page: &str, token: &Secret) -> String {
    format!("{}/{page}?token={}", ctx.config.accounts.frontend_url, token.reveal())
}
