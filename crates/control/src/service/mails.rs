//! Mails on their way out: their words, and the tokens in them. A token is made here, at the last moment, and lies nowhere but in
//! the mail; the database gets its hash.

use serde_json::Value;
use uuid::Uuid;
use wrenn_domain::account::Email;
use wrenn_domain::limits::{ACTIVATION_AGE_MAX, RESET_AGE_MAX};
use wrenn_domain::secret::Secret;
use wrenn_store::pg::{TokenPurpose, User};

use super::{ServiceError, chance};
use crate::context::Context;
use crate::mail::{Letter, Mail};

/// What the mail that is owed says now. None: nothing any more, and to nobody.
pub async fn write(ctx: &Context, errand: Uuid, payload: &Value) -> Result<Option<Letter>, ServiceError> {
    let Ok(mail) = serde_json::from_value::<Mail>(payload.clone()) else {
        // Owed by a newer version that was taken back, most likely.
        tracing::error!(mail = %errand, "the mail {errand} is not one this version knows; it is dropped");
        return Ok(None);
    };
    Ok(match mail {
        Mail::Nothing { .. } => None,
        Mail::Letter(letter) => Some(letter),
        Mail::AlreadySignedUp { to } => Some(Letter::already_signed_up(&to)),
        Mail::Activation { to } => {
            let issued = issue(ctx, errand, TokenPurpose::Activation, &to).await?;
            issued.map(|(user, token)| Letter::activation(&to, &user.name, link(ctx, "activate", &token)))
        }
        Mail::Reset { to } => {
            let issued = issue(ctx, errand, TokenPurpose::PasswordReset, &to).await?;
            issued.map(|(user, token)| Letter::reset(&to, &user.name, link(ctx, "reset-password", &token)))
        }
    })
}

async fn issue(
    ctx: &Context,
    errand: Uuid,
    purpose: TokenPurpose,
    to: &str,
) -> Result<Option<(User, Secret)>, ServiceError> {
    let keep = match purpose {
        TokenPurpose::Activation => ACTIVATION_AGE_MAX,
        TokenPurpose::PasswordReset => RESET_AGE_MAX,
    };
    // It was an address when the mail was owed.
    let Ok(email) = to.parse::<Email>() else { return Ok(None) };
    let token = chance::secret()?;
    let user = ctx.store.token_issue(errand, purpose, &email, &token.hash(), keep).await?;
    Ok(user.map(|user| (user, token)))
}

/// The page of the frontend that takes a token.
fn link(ctx: &Context, page: &str, token: &Secret) -> String {
    format!("{}/{page}?token={}", ctx.config.accounts.frontend_url, token.reveal())
}
