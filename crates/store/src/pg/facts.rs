//! Facts written once in the life of an installation.
//!
//! Owner of: platform_facts.

use sqlx::PgConnection;

use crate::{Store, StoreError};

/// Somebody became the first admin.
const FIRST_ADMIN: &str = "first_admin";
/// The secret others are derived from, hex.
const SECRET: &str = "secret";

/// Takes the place of the first admin; true for exactly one caller ever, whatever becomes of that account later.
pub(super) async fn claim_first_admin(tx: &mut PgConnection, user: &str) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("INSERT INTO platform_facts (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(FIRST_ADMIN)
        .bind(user)
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

impl Store {
    /// The installation's secret; `fresh` becomes it when there is none.
    pub async fn secret_ensure(&self, fresh: &str) -> Result<String, StoreError> {
        self.run("read the installation's secret", || async {
            sqlx::query("INSERT INTO platform_facts (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(SECRET)
                .bind(fresh)
                .execute(&self.pool)
                .await?;
            sqlx::query_scalar("SELECT value FROM platform_facts WHERE name = $1")
                .bind(SECRET)
                .fetch_one(&self.pool)
                .await
        })
        .await
    }
}
