//! Facts written once in the life of an installation.
//!
//! Owner of: platform_facts.

use crate::{Store, StoreError};

/// The secret others are derived from, hex.
const SECRET: &str = "secret";

impl Store {
    /// The installation's secret; `fresh` becomes it when there is none.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
