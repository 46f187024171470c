//! The live feed: events, and changes of state between them, in the one order in which subscribers are sent them.
//!
//! Every control plane reads this by itself, so that it needs nobody but the database; Redis only says when to look. Rows get
//! their position (column `feed_position`) after they were committed, by one transaction at a time: a reader that goes on from the last position it saw
//! misses nothing, however late a transaction with an early seq ends. Changes of one sandbox keep their order, because each
//! is written only after the one before it was committed.
//!
//! Owner of: event_outbox.feed_position, sandbox_moves (its rows are written by a trigger on sandboxes).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::ids::{EventId, SandboxId, TeamId};
use wrenn_domain::limits::{LIVE_BATCH_MAX, LIVE_REPLAY_MAX};
use wrenn_domain::sandbox::SandboxState;

use super::audit::{Author, AuthorJson};
use super::outbox::Event;
use crate::error::corrupt;
use crate::{Store, StoreError};

/// Entry of the live feed.
#[derive(Debug, Clone)]
pub struct FeedEntry {
    /// Number of the entry in the one order in which everybody is sent entries; it only grows.
    pub position: i64,
    pub body: FeedBody,
}

/// Content of an entry of the live feed.
#[derive(Debug, Clone)]
pub enum FeedBody {
    /// An event: kept, and sent again to a subscriber that missed it.
    Event(Event),
    /// A sandbox changed its state: sent to those who are subscribed now.
    StateChange {
        sandbox: SandboxId,
        team: TeamId,
        /// None at its birth.
        from: Option<SandboxState>,
        to: SandboxState,
        author: Author,
        at: DateTime<Utc>,
    },
}

/// Position from which a subscriber is sent what it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumePoint {
    /// The last position it needs not be sent.
    pub after: i64,
    /// Some of the entries it missed are not kept any more.
    pub gap: bool,
}

impl FeedBody {
    /// The team whose entry it is.
    pub fn team(&self) -> TeamId {
        match self {
            Self::Event(event) => event.team,
            Self::StateChange { team, .. } => *team,
        }
    }
}

impl Store {
    /// The newest position.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn live_head(&self) -> Result<i64, StoreError> {
        self.assign_positions().await?;
        self.run("look for the newest event", || async {
            sqlx::query_scalar(
                "SELECT greatest((SELECT max(feed_position) FROM event_outbox), (SELECT max(feed_position) FROM sandbox_moves), 0)",
            )
            .fetch_one(&self.pool)
            .await
        })
        .await
    }

    /// Entries after a position, in order, and the last position that was read. Entries this version cannot read are left out.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn live_after(&self, position: i64) -> Result<(Vec<FeedEntry>, i64), StoreError> {
        self.assign_positions().await?;
        self.run("read what happened", || async {
            let rows = sqlx::query(
                "(SELECT feed_position, payload::text AS payload, NULL::uuid AS sandbox_id, NULL::uuid AS team_id,
                    NULL::text AS from_state, NULL::text AS to_state, NULL::jsonb AS requested_by, created_at
                  FROM event_outbox WHERE feed_position > $1 ORDER BY feed_position LIMIT $2)
                 UNION ALL
                 (SELECT feed_position, NULL, sandbox_id, team_id, from_state, to_state, requested_by, created_at
                  FROM sandbox_moves WHERE feed_position > $1 ORDER BY feed_position LIMIT $2)
                 ORDER BY feed_position LIMIT $2",
            )
            .bind(position)
            .bind(LIVE_BATCH_MAX)
            .fetch_all(&self.pool)
            .await?;
            read(&rows, position)
        })
        .await
    }

    /// Position from which a subscriber goes on that saw this event last; events of other teams are unknown to it.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn live_missed(&self, team: Option<TeamId>, last: EventId) -> Result<ResumePoint, StoreError> {
        self.assign_positions().await?;
        self.run("look for a missed event", || async {
            let team = team.map(TeamId::uuid);
            let known: Option<i64> = sqlx::query_scalar(
                "SELECT feed_position FROM event_outbox WHERE id = $1 AND ($2::uuid IS NULL OR team_id = $2) AND feed_position IS NOT NULL",
            )
            .bind(last.uuid())
            .bind(team)
            .fetch_optional(&self.pool)
            .await?;
            let after = known.unwrap_or(0);
            // The newest of those that are too many.
            let skipped: Option<i64> = sqlx::query_scalar(
                "SELECT feed_position FROM event_outbox WHERE feed_position > $1 AND ($2::uuid IS NULL OR team_id = $2)
                 ORDER BY feed_position DESC OFFSET $3 LIMIT 1",
            )
            .bind(after)
            .bind(team)
            .bind(LIVE_REPLAY_MAX)
            .fetch_optional(&self.pool)
            .await?;
            Ok(ResumePoint { after: skipped.unwrap_or(after), gap: known.is_none() || skipped.is_some() })
        })
        .await
    }

    /// Events between two positions, in order and the upper one included, and the last position that was read.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn live_replay(
        &self,
        team: Option<TeamId>,
        after: i64,
        until: i64,
    ) -> Result<(Vec<FeedEntry>, i64), StoreError> {
        self.run("read missed events", || async {
            let rows = sqlx::query(
                "SELECT feed_position, payload::text AS payload FROM event_outbox
                 WHERE feed_position > $1 AND feed_position <= $2 AND ($3::uuid IS NULL OR team_id = $3) ORDER BY feed_position LIMIT $4",
            )
            .bind(after)
            .bind(until)
            .bind(team.map(TeamId::uuid))
            .bind(LIVE_BATCH_MAX)
            .fetch_all(&self.pool)
            .await?;
            read(&rows, after)
        })
        .await
    }

    /// Forgets changes of state that nobody can still be waiting for.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn live_sweep(&self, kept: Duration) -> Result<u64, StoreError> {
        self.run("forget changes of state", || async {
            let done = sqlx::query("DELETE FROM sandbox_moves WHERE created_at < now() - $1 * interval '1 second'")
                .bind(kept.as_secs_f64())
                .execute(&self.pool)
                .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// Gives every committed row its position.
    async fn assign_positions(&self) -> Result<(), StoreError> {
        loop {
            let given = self
                .run("order what happened", || async {
                    let waiting: bool = sqlx::query_scalar(
                        "SELECT EXISTS (SELECT 1 FROM event_outbox WHERE feed_position IS NULL)
                           OR EXISTS (SELECT 1 FROM sandbox_moves WHERE feed_position IS NULL)",
                    )
                    .fetch_one(&self.pool)
                    .await?;
                    if !waiting {
                        return Ok(0);
                    }
                    let mut tx = self.pool.begin().await?;
                    let given = assign_batch(&mut tx).await?;
                    tx.commit().await?;
                    Ok(given)
                })
                .await?;
            if given < LIVE_BATCH_MAX {
                return Ok(());
            }
        }
    }
}

async fn assign_batch(tx: &mut PgConnection) -> Result<i64, sqlx::Error> {
    // Held until the commit: positions become visible in their order. The next statement sees what the one before us committed.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('wrenn:live', 0))").execute(&mut *tx).await?;
    sqlx::query_scalar(
        "WITH fresh AS MATERIALIZED (
           SELECT seq, is_event, nextval('live_positions') AS feed_position FROM (
             (SELECT seq, true AS is_event FROM event_outbox WHERE feed_position IS NULL ORDER BY seq LIMIT $1)
             UNION ALL
             (SELECT seq, false FROM sandbox_moves WHERE feed_position IS NULL ORDER BY seq LIMIT $1)
             ORDER BY seq LIMIT $1) waiting),
         events AS (UPDATE event_outbox o SET feed_position = f.feed_position FROM fresh f WHERE f.is_event AND o.seq = f.seq),
         moves AS (UPDATE sandbox_moves m SET feed_position = f.feed_position FROM fresh f WHERE NOT f.is_event AND m.seq = f.seq)
         SELECT count(*) FROM fresh",
    )
    .bind(LIVE_BATCH_MAX)
    .fetch_one(tx)
    .await
}

fn read(rows: &[PgRow], before: i64) -> Result<(Vec<FeedEntry>, i64), sqlx::Error> {
    let mut last = before;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        last = row.try_get("feed_position")?;
        let body = match row.try_get::<Option<&str>, _>("payload")? {
            Some(payload) => Event::read(payload).map(FeedBody::Event),
            None => Some(moved(row)?),
        };
        all.extend(body.map(|body| FeedEntry { position: last, body }));
    }
    Ok((all, last))
}

fn moved(row: &PgRow) -> Result<FeedBody, sqlx::Error> {
    let state = |text: &str| text.parse::<SandboxState>().map_err(|_| corrupt("sandbox_moves.state"));
    let from = match row.try_get::<&str, _>("from_state")? {
        "" => None,
        text => Some(state(text)?),
    };
    let to = state(row.try_get("to_state")?)?;
    let requested = row.try_get::<Option<Json<AuthorJson>>, _>("requested_by")?.and_then(|author| author.0.read());
    Ok(FeedBody::StateChange {
        sandbox: SandboxId::from_uuid(row.try_get::<Uuid, _>("sandbox_id")?),
        team: TeamId::from_uuid(row.try_get("team_id")?),
        from,
        to,
        author: requested.filter(|_| is_requested(from, to)).unwrap_or_else(Author::system),
        at: row.try_get("created_at")?,
    })
}

/// Whether somebody's request was written, or was done.
fn is_requested(from: Option<SandboxState>, to: SandboxState) -> bool {
    use SandboxState as S;
    match from {
        None | Some(S::Starting | S::Pausing | S::Resuming | S::Stopping) => true,
        Some(S::Running | S::Paused | S::Snapshotting | S::Missing | S::Stopped | S::Error) => {
            matches!(to, S::Pausing | S::Resuming | S::Stopping)
        }
    }
}
