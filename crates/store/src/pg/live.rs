//! What happens, in the one order in which it is told to those who watch: events, and changes of state between them.
//!
//! Every control plane reads this by itself, so that it needs nobody but the database; Redis only says when to look. Rows get
//! their place after they were committed, by one transaction at a time: a reader that goes on from the last place it saw
//! misses nothing, however late a transaction with an early seq ends. Changes of one sandbox keep their order, because each
//! is written only after the one before it was committed.
//!
//! Owner of: event_outbox.place, sandbox_moves (its rows are written by a trigger on sandboxes).

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

/// Something that happened.
#[derive(Debug, Clone)]
pub struct News {
    pub place: i64,
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Happening {
    /// An event: kept, and told again to whoever missed it.
    Told(Event),
    /// A sandbox changed its state: told to those who watch now.
    Moved {
        sandbox: SandboxId,
        team: TeamId,
        /// None at its birth.
        from: Option<SandboxState>,
        to: SandboxState,
        author: Author,
        at: DateTime<Utc>,
    },
}

/// From where on somebody is to be told what it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// The last place it needs not be told.
    pub after: i64,
    /// Some of what it missed is not kept any more.
    pub gap: bool,
}

impl Happening {
    /// Whose it is.
    pub fn team(&self) -> TeamId {
        match self {
            Self::Told(event) => event.team,
            Self::Moved { team, .. } => *team,
        }
    }
}

impl Store {
    /// The newest place.
    pub async fn live_head(&self) -> Result<i64, StoreError> {
        self.give_places().await?;
        self.run("look for the newest event", || async {
            sqlx::query_scalar(
                "SELECT greatest((SELECT max(place) FROM event_outbox), (SELECT max(place) FROM sandbox_moves), 0)",
            )
            .fetch_one(&self.pool)
            .await
        })
        .await
    }

    /// What happened after a place, in order, and the last place that was looked at. What this version cannot read is left out.
    pub async fn live_after(&self, place: i64) -> Result<(Vec<News>, i64), StoreError> {
        self.give_places().await?;
        self.run("read what happened", || async {
            let rows = sqlx::query(
                "(SELECT place, payload::text AS payload, NULL::uuid AS sandbox_id, NULL::uuid AS team_id,
                    NULL::text AS from_state, NULL::text AS to_state, NULL::jsonb AS wished_by, created_at
                  FROM event_outbox WHERE place > $1 ORDER BY place LIMIT $2)
                 UNION ALL
                 (SELECT place, NULL, sandbox_id, team_id, from_state, to_state, wished_by, created_at
                  FROM sandbox_moves WHERE place > $1 ORDER BY place LIMIT $2)
                 ORDER BY place LIMIT $2",
            )
            .bind(place)
            .bind(LIVE_BATCH_MAX)
            .fetch_all(&self.pool)
            .await?;
            read(&rows, place)
        })
        .await
    }

    /// Where somebody goes on who saw this event last; none of another team's is known to it.
    pub async fn live_missed(&self, team: Option<TeamId>, last: EventId) -> Result<Missed, StoreError> {
        self.give_places().await?;
        self.run("look for a missed event", || async {
            let team = team.map(TeamId::uuid);
            let known: Option<i64> = sqlx::query_scalar(
                "SELECT place FROM event_outbox WHERE id = $1 AND ($2::uuid IS NULL OR team_id = $2) AND place IS NOT NULL",
            )
            .bind(last.uuid())
            .bind(team)
            .fetch_optional(&self.pool)
            .await?;
            let after = known.unwrap_or(0);
            // The newest of those that are too many.
            let skipped: Option<i64> = sqlx::query_scalar(
                "SELECT place FROM event_outbox WHERE place > $1 AND ($2::uuid IS NULL OR team_id = $2)
                 ORDER BY place DESC OFFSET $3 LIMIT 1",
            )
            .bind(after)
            .bind(team)
            .bind(LIVE_REPLAY_MAX)
            .fetch_optional(&self.pool)
            .await?;
            Ok(Missed { after: skipped.unwrap_or(after), gap: known.is_none() || skipped.is_some() })
        })
        .await
    }

    /// Events between two places, both in order and the upper one included, and the last place that was looked at.
    pub async fn live_replay(
        &self,
        team: Option<TeamId>,
        after: i64,
        until: i64,
    ) -> Result<(Vec<News>, i64), StoreError> {
        self.run("read missed events", || async {
            let rows = sqlx::query(
                "SELECT place, payload::text AS payload FROM event_outbox
                 WHERE place > $1 AND place <= $2 AND ($3::uuid IS NULL OR team_id = $3) ORDER BY place LIMIT $4",
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

    /// Gives every committed row its place.
    async fn give_places(&self) -> Result<(), StoreError> {
        loop {
            let given = self
                .run("order what happened", || async {
                    let waiting: bool = sqlx::query_scalar(
                        "SELECT EXISTS (SELECT 1 FROM event_outbox WHERE place IS NULL)
                           OR EXISTS (SELECT 1 FROM sandbox_moves WHERE place IS NULL)",
                    )
                    .fetch_one(&self.pool)
                    .await?;
                    if !waiting {
                        return Ok(0);
                    }
                    let mut tx = self.pool.begin().await?;
                    let given = place_rows(&mut tx).await?;
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

async fn place_rows(tx: &mut PgConnection) -> Result<i64, sqlx::Error> {
    // Held until the commit: places become visible in their order. The next statement sees what the one before us committed.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('wrenn:live', 0))").execute(&mut *tx).await?;
    sqlx::query_scalar(
        "WITH fresh AS MATERIALIZED (
           SELECT seq, is_event, nextval('live_places') AS place FROM (
             (SELECT seq, true AS is_event FROM event_outbox WHERE place IS NULL ORDER BY seq LIMIT $1)
             UNION ALL
             (SELECT seq, false FROM sandbox_moves WHERE place IS NULL ORDER BY seq LIMIT $1)
             ORDER BY seq LIMIT $1) waiting),
         events AS (UPDATE event_outbox o SET place = f.place FROM fresh f WHERE f.is_event AND o.seq = f.seq),
         moves AS (UPDATE sandbox_moves m SET place = f.place FROM fresh f WHERE NOT f.is_event AND m.seq = f.seq)
         SELECT count(*) FROM fresh",
    )
    .bind(LIVE_BATCH_MAX)
    .fetch_one(tx)
    .await
}

fn read(rows: &[PgRow], before: i64) -> Result<(Vec<News>, i64), sqlx::Error> {
    let mut last = before;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        last = row.try_get("place")?;
        let what = match row.try_get::<Option<&str>, _>("payload")? {
            Some(payload) => Event::read(payload).map(Happening::Told),
            None => Some(moved(row)?),
        };
        all.extend(what.map(|what| News { place: last, what }));
    }
    Ok((all, last))
}

fn moved(row: &PgRow) -> Result<Happening, sqlx::Error> {
    let state = |text: &str| text.parse::<SandboxState>().map_err(|_| corrupt("sandbox_moves.state"));
    let from = match row.try_get::<&str, _>("from_state")? {
        "" => None,
        text => Some(state(text)?),
    };
    let to = state(row.try_get("to_state")?)?;
    let wished = row.try_get::<Option<Json<AuthorJson>>, _>("wished_by")?.and_then(|author| author.0.read());
    Ok(Happening::Moved {
        sandbox: SandboxId::from_uuid(row.try_get::<Uuid, _>("sandbox_id")?),
        team: TeamId::from_uuid(row.try_get("team_id")?),
        from,
        to,
        author: wished.filter(|_| is_wished(from, to)).unwrap_or_else(Author::system),
        at: row.try_get("created_at")?,
    })
}

/// Somebody's wish was written, or came true.
fn is_wished(from: Option<SandboxState>, to: SandboxState) -> bool {
    use SandboxState as S;
    match from {
        None | Some(S::Starting | S::Pausing | S::Resuming | S::Stopping) => true,
        Some(S::Running | S::Paused | S::Snapshotting | S::Missing | S::Stopped | S::Error) => {
            matches!(to, S::Pausing | S::Resuming | S::Stopping)
        }
    }
}
