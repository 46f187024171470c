//! Events on their way out: written in the transaction of the change they tell of, handed to the stream, and kept until every
//! group that is owed them has settled them. Redis only carries them: what it loses is found here again.
//!
//! Owner of: event_outbox, event_groups, event_deliveries.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, Row, Transaction};
use uuid::Uuid;
use wrenn_domain::event::{EventType, Outcome};
use wrenn_domain::ids::{EventId, TeamId};
use wrenn_domain::limits::{CHANNEL_WAITING_MAX, DEAD_LETTERS_LIST_MAX};

use super::audit::{Author, AuthorJson};
use super::notification_channels::queue_for_channels;
use crate::error::corrupt;
use crate::{Store, StoreError};

/// An event to be told.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub id: EventId,
    pub kind: EventType,
    pub outcome: Option<Outcome>,
    pub team: TeamId,
    pub author: Author,
    /// sandbox, snapshot or host.
    pub resource_type: &'static str,
    pub resource_id: String,
    pub metadata: BTreeMap<String, String>,
    pub error: Option<String>,
}

/// An event as it travels. Receivers tell a second delivery by its id.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: EventId,
    pub kind: EventType,
    pub outcome: Option<Outcome>,
    pub timestamp: DateTime<Utc>,
    pub team: TeamId,
    pub author: Author,
    pub resource_type: String,
    pub resource_id: String,
    pub metadata: BTreeMap<String, String>,
    pub error: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    id: EventId,
    event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<DateTime<Utc>>,
    team_id: TeamId,
    actor: AuthorJson,
    resource: Resource,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Resource {
    id: String,
    #[serde(rename = "type")]
    kind: String,
}

/// An event that waits for the stream.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub id: EventId,
    /// JSON, as the stream carries it.
    pub payload: String,
}

/// Events on their way to the stream; nobody else takes any meanwhile. Dropped, they wait again.
pub struct Taken {
    tx: Transaction<'static, Postgres>,
    seqs: Vec<i64>,
    /// JSON, as the stream carries it, in order.
    pub payloads: Vec<String>,
}

impl Taken {
    /// Notes that the stream has them.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn note(self) -> Result<(), StoreError> {
        let Self { mut tx, seqs, .. } = self;
        let noted = async {
            sqlx::query("UPDATE event_outbox SET relayed_at = now() WHERE seq = ANY($1)")
                .bind(&seqs)
                .execute(&mut *tx)
                .await?;
            tx.commit().await
        };
        noted.await.map_err(|source| StoreError::of("note relayed events", source))
    }
}

/// A delivery that was begun, or why it was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Ours; it is try number so many.
    Try(u32),
    /// Settled already, not owed to this group, or forgotten.
    Over,
    /// Somebody else is at it, or an earlier event of the same sandbox is not settled yet: a group hears of one sandbox in order.
    Busy,
}

/// How a delivery ended.
#[derive(Debug, Clone)]
pub enum Settled {
    Done,
    /// Later again.
    Failed(String),
    /// Never again, until a person says so.
    Dead(String),
}

/// An event no delivery of which worked.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub group: String,
    pub event: Event,
    pub attempts: u32,
    pub error: String,
    pub died_at: DateTime<Utc>,
}

impl Event {
    /// Reads what the stream carries; none when it is no event of ours.
    pub fn read(payload: &str) -> Option<Self> {
        let body: Body = serde_json::from_str(payload).ok()?;
        Some(Self {
            id: body.id,
            kind: body.event.parse().ok()?,
            outcome: body.outcome.map(|word| word.parse()).transpose().ok()?,
            timestamp: body.timestamp?,
            team: body.team_id,
            author: body.actor.read()?,
            resource_type: body.resource.kind,
            resource_id: body.resource.id,
            metadata: body.metadata,
            error: body.error,
        })
    }
}

/// Writes events inside the caller's transaction. Their time is the database's.
pub(super) async fn publish(tx: &mut PgConnection, events: &[NewEvent]) -> Result<(), sqlx::Error> {
    for event in events {
        let body = Body {
            id: event.id,
            event: event.kind.as_str().to_owned(),
            outcome: event.outcome.map(|outcome| outcome.as_str().to_owned()),
            timestamp: None,
            team_id: event.team,
            actor: AuthorJson::from(&event.author),
            resource: Resource { id: event.resource_id.clone(), kind: event.resource_type.to_owned() },
            metadata: event.metadata.clone(),
            error: event.error.clone(),
        };
        // An event whose id is written already is queued for nobody again.
        sqlx::query(queue_for_channels!(
            "INSERT INTO event_outbox (id, team_id, payload) VALUES ($1, $2, $3::jsonb ||
               jsonb_build_object('timestamp', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')))
             ON CONFLICT (id) DO NOTHING RETURNING team_id, payload",
            event "$4",
            waiting_max "$5"
        ))
        .bind(event.id.uuid())
        .bind(event.team.uuid())
        .bind(Json(body))
        .bind(event.kind.as_str())
        .bind(CHANNEL_WAITING_MAX)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

impl Store {
    /// Writes events that belong to no other change, such as a distribution's own.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn event_publish(&self, events: &[NewEvent]) -> Result<(), StoreError> {
        self.run_seen("write events", || async {
            let mut tx = self.pool.begin().await?;
            publish(&mut tx, events).await?;
            tx.commit().await
        })
        .await
    }

    /// Takes the next events for the stream, oldest first; none when there are none. One taker at a time, until it notes or drops
    /// them: two would tell of one sandbox out of order. What was sent but not noted is taken again.
    ///
    /// It asks for rows that were not sent rather than for a seq above the last one: a transaction that drew its seq early and
    /// ends late is found all the same. Of one sandbox the order is that of its changes, because each is written only
    /// after the one before it was committed.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbox_take(&self, limit: usize) -> Result<Option<Taken>, StoreError> {
        self.run("take events", || async {
            let mut tx = self.pool.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('wrenn:relay', 0))").execute(&mut *tx).await?;
            let rows = sqlx::query(
                "SELECT seq, payload::text AS payload FROM event_outbox WHERE relayed_at IS NULL ORDER BY seq LIMIT $1",
            )
            .bind(limit as i64)
            .fetch_all(&mut *tx)
            .await?;
            if rows.is_empty() {
                return Ok(None);
            }
            let seqs = rows.iter().map(|row| row.try_get("seq")).collect::<Result<_, _>>()?;
            let payloads = rows.iter().map(|row| row.try_get("payload")).collect::<Result<_, _>>()?;
            Ok(Some(Taken { tx, seqs, payloads }))
        })
        .await
    }

    /// The events no stream has yet, oldest first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbox_waiting(&self, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.run("read the outbox", || async {
            let rows = sqlx::query(
                "SELECT id, payload::text AS payload FROM event_outbox WHERE relayed_at IS NULL ORDER BY seq LIMIT $1",
            )
            .bind(limit as i64)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(waiting).collect()
        })
        .await
    }

    /// Notes that the stream has these.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbox_relayed(&self, ids: &[EventId]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        self.run("note relayed events", || async {
            sqlx::query("UPDATE event_outbox SET relayed_at = now() WHERE id = ANY($1) AND relayed_at IS NULL")
                .bind(&ids)
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }

    /// Forgets events that are older than they are kept, unless somebody is still owed them.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbox_sweep(&self, kept: Duration) -> Result<u64, StoreError> {
        self.run("forget old events", || async {
            let done = sqlx::query(
                "DELETE FROM event_outbox o WHERE relayed_at IS NOT NULL AND created_at < now() - $1 * interval '1 second'
                   AND NOT EXISTS (SELECT 1 FROM event_deliveries d WHERE d.event_id = o.id
                     AND (d.dead OR d.settled_at IS NULL) AND o.created_at > now() - $1 * interval '5 seconds')",
            )
            .bind(kept.as_secs_f64())
            .execute(&self.pool)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// Makes a group known; from now on it is owed every event.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn event_group_ensure(&self, group: &str) -> Result<(), StoreError> {
        self.run("make an event group known", || async {
            sqlx::query("INSERT INTO event_groups (name) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(group)
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }

    /// Begins a delivery: counts the try and keeps others away for `busy`.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn delivery_begin(&self, group: &str, id: EventId, busy: Duration) -> Result<Begun, StoreError> {
        self.run("begin a delivery", || async {
            let attempts: Option<i32> = sqlx::query_scalar(
                "INSERT INTO event_deliveries AS d (group_name, event_id, attempts, busy_until)
                 SELECT g.name, o.id, 1, now() + $3 * interval '1 second' FROM event_outbox o, event_groups g
                 WHERE o.id = $2 AND g.name = $1 AND o.created_at >= g.created_at
                   AND NOT EXISTS (SELECT 1 FROM event_outbox b LEFT JOIN event_deliveries e
                     ON e.event_id = b.id AND e.group_name = g.name
                     WHERE b.payload->'resource'->>'id' = o.payload->'resource'->>'id' AND b.seq < o.seq
                       AND b.created_at >= g.created_at AND e.settled_at IS NULL)
                 ON CONFLICT (group_name, event_id) DO UPDATE SET attempts = d.attempts + 1, busy_until = excluded.busy_until
                 WHERE d.settled_at IS NULL AND (d.busy_until IS NULL OR d.busy_until < now()) RETURNING attempts",
            )
            .bind(group)
            .bind(id.uuid())
            .bind(busy.as_secs_f64())
            .fetch_optional(&self.pool)
            .await?;
            if let Some(attempts) = attempts {
                return Ok(Begun::Try(u32::try_from(attempts).unwrap_or(u32::MAX)));
            }
            let busy: Option<bool> = sqlx::query_scalar(
                "SELECT true FROM event_outbox o JOIN event_groups g ON g.name = $1 AND o.created_at >= g.created_at
                 LEFT JOIN event_deliveries d ON d.event_id = o.id AND d.group_name = g.name
                 WHERE o.id = $2 AND d.settled_at IS NULL",
            )
            .bind(group)
            .bind(id.uuid())
            .fetch_optional(&self.pool)
            .await?;
            Ok(if busy.is_some() { Begun::Busy } else { Begun::Over })
        })
        .await
    }

    /// Notes how a delivery ended. A failed one is kept from everybody for `pause`.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn delivery_settle(
        &self,
        group: &str,
        id: EventId,
        how: &Settled,
        pause: Duration,
    ) -> Result<(), StoreError> {
        let (over, dead, error) = match how {
            Settled::Done => (true, false, None),
            Settled::Failed(error) => (false, false, Some(error)),
            Settled::Dead(error) => (true, true, Some(error)),
        };
        self.run("settle a delivery", || async {
            sqlx::query(
                "UPDATE event_deliveries SET settled_at = CASE WHEN $3 THEN now() END, dead = $4, error = $5,
                   busy_until = CASE WHEN $3 THEN NULL ELSE now() + $6 * interval '1 second' END
                 WHERE group_name = $1 AND event_id = $2 AND settled_at IS NULL",
            )
            .bind(group)
            .bind(id.uuid())
            .bind(over)
            .bind(dead)
            .bind(error)
            .bind(pause.as_secs_f64())
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Events a group is owed, relayed longer than `overdue` ago, that nobody is at: what the stream lost or a dead process left.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn delivery_overdue(
        &self,
        group: &str,
        overdue: Duration,
        limit: usize,
    ) -> Result<Vec<Waiting>, StoreError> {
        self.run("look for overdue events", || async {
            let rows = sqlx::query(
                "SELECT o.id, o.payload::text AS payload FROM event_outbox o
                 JOIN event_groups g ON g.name = $1 AND o.created_at >= g.created_at
                 LEFT JOIN event_deliveries d ON d.event_id = o.id AND d.group_name = $1
                 WHERE o.created_at < now() - $2 * interval '1 second' AND d.settled_at IS NULL
                   AND (d.busy_until IS NULL OR d.busy_until < now())
                 ORDER BY o.seq LIMIT $3",
            )
            .bind(group)
            .bind(overdue.as_secs_f64())
            .bind(limit as i64)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(waiting).collect()
        })
        .await
    }

    /// Dead letters of all groups, newest first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn dead_letter_list(&self) -> Result<Vec<DeadLetter>, StoreError> {
        self.run("list dead letters", || async {
            let rows = sqlx::query(
                "SELECT d.*, o.payload::text AS payload FROM event_deliveries d JOIN event_outbox o ON o.id = d.event_id
                 WHERE d.dead ORDER BY d.settled_at DESC, d.event_id LIMIT $1",
            )
            .bind(DEAD_LETTERS_LIST_MAX)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(dead_letter).collect()
        })
        .await
    }

    /// Gives a dead letter all its tries again. False when there is none.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn dead_letter_retry(&self, group: &str, id: EventId) -> Result<bool, StoreError> {
        self.run("retry a dead letter", || async {
            let done = sqlx::query(
                "UPDATE event_deliveries SET dead = false, settled_at = NULL, attempts = 0, busy_until = NULL
                 WHERE group_name = $1 AND event_id = $2 AND dead",
            )
            .bind(group)
            .bind(id.uuid())
            .execute(&self.pool)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }
}

fn waiting(row: &PgRow) -> Result<Waiting, sqlx::Error> {
    Ok(Waiting { id: EventId::from_uuid(row.try_get("id")?), payload: row.try_get("payload")? })
}

fn dead_letter(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    Ok(DeadLetter {
        group: row.try_get("group_name")?,
        event: Event::read(row.try_get("payload")?).ok_or_else(|| corrupt("event_outbox.payload"))?,
        attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).unwrap_or(0),
        error: row.try_get::<Option<String>, _>("error")?.unwrap_or_default(),
        died_at: row.try_get("settled_at")?,
    })
}
