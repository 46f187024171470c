//! Bounds of what teams may use, as platform admins set them.
//!
//! Owner of: team_limits.

use sqlx::Row;
use sqlx::postgres::PgRow;
use wrenn_domain::ids::{PLATFORM_TEAM, TeamId};
use wrenn_domain::quota::Limits;

use super::audit::{NewAudit, note};
use crate::{Store, StoreError};

impl Store {
    /// Bounds that hold for a team: its own, else the platform's, else those that are built in.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_limits(&self, team: TeamId) -> Result<Limits, StoreError> {
        self.run("read a team's limits", || async {
            let row =
                sqlx::query("SELECT * FROM team_limits WHERE team_id IN ($1, $2) ORDER BY team_id = $1 DESC LIMIT 1")
                    .bind(team.uuid())
                    .bind(PLATFORM_TEAM.uuid())
                    .fetch_optional(&self.pool)
                    .await?;
            row.as_ref().map_or(Ok(Limits::BUILT_IN), limits)
        })
        .await
    }

    /// Sets the bounds of a team, or those of teams without any for the platform's. False: there is no such team.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn team_limits_set(&self, team: TeamId, to: Limits, audit: &[NewAudit]) -> Result<bool, StoreError> {
        self.run("set a team's limits", || async {
            let mut tx = self.pool.begin().await?;
            let set = sqlx::query(
                "INSERT INTO team_limits (team_id, sandboxes_max, kept_max, vcpus_max, memory_mib_max)
                 SELECT id, $2, $3, $4, $5 FROM teams WHERE id = $1 AND deleted_at IS NULL
                 ON CONFLICT (team_id) DO UPDATE SET sandboxes_max = excluded.sandboxes_max, kept_max = excluded.kept_max,
                   vcpus_max = excluded.vcpus_max, memory_mib_max = excluded.memory_mib_max, updated_at = now()",
            )
            .bind(team.uuid())
            .bind(stored(to.sandboxes_max))
            .bind(stored(to.kept_max))
            .bind(stored(to.vcpus_max))
            .bind(stored(to.memory_mib_max))
            .execute(&mut *tx)
            .await?;
            if set.rows_affected() == 0 {
                return Ok(false);
            }
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }
}

/// A bound above what the database holds is as good as the largest it holds.
fn stored(max: Option<u64>) -> Option<i64> {
    max.map(|max| i64::try_from(max).unwrap_or(i64::MAX))
}

fn limits(row: &PgRow) -> Result<Limits, sqlx::Error> {
    let max = |column: &'static str| -> Result<Option<u64>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(|max| u64::try_from(max).unwrap_or(0)))
    };
    Ok(Limits {
        sandboxes_max: max("sandboxes_max")?,
        kept_max: max("kept_max")?,
        vcpus_max: max("vcpus_max")?,
        memory_mib_max: max("memory_mib_max")?,
    })
}
