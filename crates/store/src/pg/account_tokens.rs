//! Single-use tokens that are sent by mail: to activate an account, to set a new password.
//!
//! Owner of: account_tokens, but for their making, which needs the account (passwords.rs).

use sqlx::PgConnection;
use uuid::Uuid;
use wrenn_domain::ids::UserId;
use wrenn_domain::secret::SecretHash;

/// Purpose of a single-use token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenPurpose {
    Activation,
    PasswordReset,
}

impl TokenPurpose {
    /// The word stored.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Activation => "activation",
            Self::PasswordReset => "password_reset",
        }
    }
}

/// Ends every mailed token of an account.
pub(super) async fn forget_tokens(tx: &mut PgConnection, user: UserId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM account_tokens WHERE user_id = $1").bind(user.uuid()).execute(tx).await.map(|_| ())
}

/// Takes a token: it works for exactly one caller.
pub(super) async fn take_token(
    tx: &mut PgConnection,
    purpose: TokenPurpose,
    token: &SecretHash,
) -> Result<Option<UserId>, sqlx::Error> {
    let id: Option<Uuid> = sqlx::query_scalar(
        "DELETE FROM account_tokens WHERE hash = $1 AND purpose = $2 AND expires_at > now() RETURNING user_id",
    )
    .bind(token.as_str())
    .bind(purpose.as_str())
    .fetch_optional(tx)
    .await?;
    Ok(id.map(UserId::from_uuid))
}
