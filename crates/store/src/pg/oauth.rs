//! Logins by other sites: which account belongs to which identity there, and the round trips under way.
//!
//! Owner of: oauth_providers, oauth_states.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wrenn_domain::account::{Email, PersonName};
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::secret::SecretHash;

use super::audit::{NewAudit, note};
use super::users::{Activated, User, settle_in, user};
use crate::error::corrupt;
use crate::{Store, StoreError};

/// Purpose of a round trip through a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OAuthIntent {
    Login,
    Signup,
    /// For this user's session alone.
    Link,
}

/// A round trip that begins.
#[derive(Debug, Clone)]
pub struct OAuthState {
    pub hash: SecretHash,
    /// Hash of the cookie that binds the round trip to one browser.
    pub browser: SecretHash,
    pub provider: String,
    pub intent: OAuthIntent,
    pub link_user: Option<UserId>,
    /// Session that asked for the link.
    pub session: Option<SecretHash>,
    pub pkce_verifier: String,
}

/// An identity at a provider.
#[derive(Debug, Clone)]
pub struct Identity {
    pub provider: String,
    /// The provider's own id of the person.
    pub id: String,
    pub email: Email,
}

/// How a sign-up by a provider ended.
#[derive(Debug, Clone)]
pub enum OAuthSignedUp {
    Done(Activated),
    /// The identity has an account already (made meanwhile).
    Known,
    /// The address belongs to another account.
    EmailTaken,
}

/// How a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    Done,
    /// The identity or the account has one already.
    Already,
    /// The account is not active.
    Gone,
}

/// How an unlink ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlinked {
    Done,
    NotLinked,
    /// The identity is the only way into the account.
    OnlyLogin,
}

impl OAuthIntent {
    fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Signup => "signup",
            Self::Link => "link",
        }
    }
}

impl Store {
    /// Notes a round trip that begins.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn oauth_state_put(&self, state: &OAuthState, keep: Duration) -> Result<(), StoreError> {
        self.run("note an OAuth round trip", || async {
            sqlx::query(
                "INSERT INTO oauth_states (hash, browser_hash, provider, intent, link_user_id, session_id, pkce_verifier,
                   expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8 * interval '1 second')
                 ON CONFLICT (hash) DO NOTHING",
            )
            .bind(state.hash.as_str())
            .bind(state.browser.as_str())
            .bind(&state.provider)
            .bind(state.intent.as_str())
            .bind(state.link_user.map(UserId::uuid))
            .bind(state.session.as_ref().map(SecretHash::as_str))
            .bind(&state.pkce_verifier)
            .bind(keep.as_secs_f64())
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Takes a round trip, if it is this provider's and this browser's. It works once; another browser's try takes nothing.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn oauth_state_take(
        &self,
        hash: &SecretHash,
        browser: &SecretHash,
        provider: &str,
    ) -> Result<Option<OAuthState>, StoreError> {
        self.run("take an OAuth round trip", || async {
            let row = sqlx::query(
                "DELETE FROM oauth_states WHERE hash = $1 AND browser_hash = $2 AND provider = $3 AND expires_at > now()
                 RETURNING *",
            )
            .bind(hash.as_str())
            .bind(browser.as_str())
            .bind(provider)
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(state).transpose()
        })
        .await
    }

    /// The account of an identity, whatever its status.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn oauth_user(&self, provider: &str, id: &str) -> Result<Option<User>, StoreError> {
        self.run("look up an OAuth identity", || async {
            let row = sqlx::query(
                "SELECT u.* FROM oauth_providers o JOIN users u ON u.id = o.user_id
                 WHERE o.provider = $1 AND o.provider_id = $2",
            )
            .bind(provider)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(user).transpose()
        })
        .await
    }

    /// Providers an account can log in by.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn oauth_list(&self, user: UserId) -> Result<Vec<String>, StoreError> {
        self.run("list OAuth identities", || async {
            sqlx::query_scalar("SELECT provider FROM oauth_providers WHERE user_id = $1 ORDER BY provider")
                .bind(user.uuid())
                .fetch_all(&self.pool)
                .await
        })
        .await
    }

    /// Makes a whole account for an identity whose provider confirmed the address. A sign-up with that address that nobody
    /// confirmed gives way, with its password.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn oauth_sign_up(
        &self,
        (id, first_team): (UserId, TeamId),
        identity: &Identity,
        name: &PersonName,
        slug: &str,
        audit: &[NewAudit],
    ) -> Result<OAuthSignedUp, StoreError> {
        self.run("sign up by OAuth", || async {
            let mut tx = self.pool.begin().await?;
            sqlx::query("DELETE FROM users WHERE email = $1 AND status = 'inactive'")
                .bind(identity.email.as_str())
                .execute(&mut *tx)
                .await?;
            let row = sqlx::query(
                "INSERT INTO users (id, email, name, status, first_team_id) VALUES ($1, $2, $3, 'active', $4)
                 ON CONFLICT (email) DO NOTHING RETURNING *",
            )
            .bind(id.uuid())
            .bind(identity.email.as_str())
            .bind(name.as_str())
            .bind(first_team.uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(user) = row.as_ref().map(user).transpose()? else {
                let known: Option<bool> =
                    sqlx::query_scalar("SELECT true FROM oauth_providers WHERE provider = $1 AND provider_id = $2")
                        .bind(&identity.provider)
                        .bind(&identity.id)
                        .fetch_optional(&mut *tx)
                        .await?;
                return Ok(if known.is_some() { OAuthSignedUp::Known } else { OAuthSignedUp::EmailTaken });
            };
            if !insert_identity(&mut tx, id, identity).await? {
                return Ok(OAuthSignedUp::Known);
            }
            let activated = settle_in(&mut tx, &user, slug).await?;
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(OAuthSignedUp::Done(activated))
        })
        .await
    }

    /// Links an identity to an account.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn oauth_link(
        &self,
        user: UserId,
        identity: &Identity,
        audit: &[NewAudit],
    ) -> Result<Linked, StoreError> {
        self.run("link an OAuth identity", || async {
            let mut tx = self.pool.begin().await?;
            let active: Option<bool> =
                sqlx::query_scalar("SELECT true FROM users WHERE id = $1 AND status = 'active' FOR UPDATE")
                    .bind(user.uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            if active.is_none() {
                return Ok(Linked::Gone);
            }
            if !insert_identity(&mut tx, user, identity).await? {
                return Ok(Linked::Already);
            }
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(Linked::Done)
        })
        .await
    }

    /// Unlinks a provider, unless nothing else leads into the account.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn oauth_unlink(&self, user: UserId, provider: &str, audit: &[NewAudit]) -> Result<Unlinked, StoreError> {
        self.run("unlink an OAuth identity", || async {
            let mut tx = self.pool.begin().await?;
            let password: Option<bool> =
                sqlx::query_scalar("SELECT password_hash IS NOT NULL FROM users WHERE id = $1 FOR UPDATE")
                    .bind(user.uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            let done = sqlx::query("DELETE FROM oauth_providers WHERE user_id = $1 AND provider = $2")
                .bind(user.uuid())
                .bind(provider)
                .execute(&mut *tx)
                .await?;
            if done.rows_affected() == 0 {
                return Ok(Unlinked::NotLinked);
            }
            let left: i64 = sqlx::query_scalar("SELECT count(*) FROM oauth_providers WHERE user_id = $1")
                .bind(user.uuid())
                .fetch_one(&mut *tx)
                .await?;
            if left == 0 && password != Some(true) {
                return Ok(Unlinked::OnlyLogin);
            }
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(Unlinked::Done)
        })
        .await
    }
}

async fn insert_identity(tx: &mut sqlx::PgConnection, user: UserId, identity: &Identity) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO oauth_providers (provider, provider_id, user_id, email) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(&identity.provider)
    .bind(&identity.id)
    .bind(user.uuid())
    .bind(identity.email.as_str())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

fn state(row: &PgRow) -> Result<OAuthState, sqlx::Error> {
    let hash = |column: &'static str| -> Result<SecretHash, sqlx::Error> {
        row.try_get::<&str, _>(column)?.parse().map_err(|_| corrupt("oauth_states.hash"))
    };
    let session = row.try_get::<Option<&str>, _>("session_id")?;
    Ok(OAuthState {
        hash: hash("hash")?,
        browser: hash("browser_hash")?,
        provider: row.try_get("provider")?,
        intent: match row.try_get::<&str, _>("intent")? {
            "login" => OAuthIntent::Login,
            "signup" => OAuthIntent::Signup,
            "link" => OAuthIntent::Link,
            _ => return Err(corrupt("oauth_states.intent")),
        },
        link_user: row.try_get::<Option<Uuid>, _>("link_user_id")?.map(UserId::from_uuid),
        session: session.map(|text| text.parse().map_err(|_| corrupt("oauth_states.session_id"))).transpose()?,
        pkce_verifier: row.try_get("pkce_verifier")?,
    })
}
