//! Notification channels: each a queue of events, written in the transactions that tell of them and sent in order by whoever
//! holds the channel.
//!
//! Owner of: channels, channel_events.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::channel::{ChannelName, Provider};
use wrenn_domain::event::EventType;
use wrenn_domain::ids::{ChannelId, TeamId, UserId};
use wrenn_domain::limits::CHANNELS_PER_TEAM_MAX;
use wrenn_domain::role::Act;

use super::audit::{NewAudit, note};
use super::leases::{Lease, Leased};
use super::teams::{TeamAct, acting_role};
use crate::error::corrupt;
use crate::{Store, StoreError};

/// A channel to be stored.
#[derive(Clone, Copy)]
pub struct NewChannel<'a> {
    pub id: ChannelId,
    pub team: TeamId,
    pub name: &'a ChannelName,
    pub provider: Provider,
    /// Sealed.
    pub config: &'a [u8],
    pub events: &'a [EventType],
}

/// What is to become of a channel.
#[derive(Clone, Copy)]
pub enum ChannelChange<'a> {
    /// Another name, other events.
    Describe {
        name: &'a ChannelName,
        events: &'a [EventType],
    },
    /// Another configuration, sealed. What waits is tried at once.
    Configure(&'a [u8]),
    Delete,
}

/// A channel without its configuration.
#[derive(Debug, Clone)]
pub struct ChannelRow {
    pub id: ChannelId,
    pub team: TeamId,
    pub name: String,
    pub provider: Provider,
    pub events: Vec<EventType>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Events that wait.
    pub waiting: u32,
    pub last_delivered_at: Option<DateTime<Utc>>,
    /// When a try failed last, and why.
    pub failure: Option<(DateTime<Utc>, String)>,
    /// Events that were given up.
    pub given_up: u64,
}

/// A channel with the first event that waits for it, held by whoever claimed it.
#[derive(Clone)]
pub struct ChannelWork {
    pub id: ChannelId,
    pub provider: Provider,
    /// Sealed.
    pub config: Vec<u8>,
    pub event: ChannelEvent,
}

/// An event that is to be sent.
#[derive(Debug, Clone)]
pub struct ChannelEvent {
    pub seq: i64,
    /// JSON.
    pub payload: String,
    /// This try included.
    pub attempts: u32,
}

impl Store {
    /// Stores a channel on behalf of a member of its team.
    pub async fn channel_create_by(
        &self,
        by: UserId,
        new: NewChannel<'_>,
        audit: &[NewAudit],
    ) -> Result<TeamAct<ChannelRow>, StoreError> {
        self.run("store a channel", || async {
            let mut tx = self.pool.begin().await?;
            match acting_role(&mut tx, new.team, by).await? {
                None => return Ok(TeamAct::NotThere),
                Some(role) if !role.may(Act::Use) => return Ok(TeamAct::Refused),
                Some(_) => {}
            }
            // Another one of the same id is this very call, made again after its answer was lost.
            let others: (i64, bool) = sqlx::query_as(
                "SELECT count(*), coalesce(bool_or(name = $3), false) FROM channels WHERE team_id = $1 AND id <> $2",
            )
            .bind(new.team.uuid())
            .bind(new.id.uuid())
            .bind(new.name.to_string())
            .fetch_one(&mut *tx)
            .await?;
            match others {
                (_, true) => return Ok(TeamAct::Already),
                (count, _) if count >= CHANNELS_PER_TEAM_MAX => return Ok(TeamAct::Full),
                _ => {}
            }
            let made = sqlx::query(
                "INSERT INTO channels (id, team_id, name, provider, config, events) VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (id) DO NOTHING",
            )
            .bind(new.id.uuid())
            .bind(new.team.uuid())
            .bind(new.name.to_string())
            .bind(new.provider.as_str())
            .bind(new.config)
            .bind(words(new.events))
            .execute(&mut *tx)
            .await?;
            if made.rows_affected() == 1 {
                note(&mut tx, audit).await?;
            }
            let row = find(&mut tx, new.team, new.id).await?.ok_or(sqlx::Error::RowNotFound)?;
            tx.commit().await?;
            Ok(TeamAct::Done(row))
        })
        .await
    }

    /// Changes or deletes a channel on behalf of a member of its team. Answers what it is then, or was when it was deleted.
    pub async fn channel_change_by(
        &self,
        team: TeamId,
        by: UserId,
        id: ChannelId,
        change: ChannelChange<'_>,
        audit: &[NewAudit],
    ) -> Result<TeamAct<ChannelRow>, StoreError> {
        self.run("change a channel", || async {
            let mut tx = self.pool.begin().await?;
            match acting_role(&mut tx, team, by).await? {
                None => return Ok(TeamAct::NotThere),
                Some(role) if !role.may(Act::Use) => return Ok(TeamAct::Refused),
                Some(_) => {}
            }
            let Some(before) = find(&mut tx, team, id).await? else { return Ok(TeamAct::NoTarget) };
            let query = match change {
                ChannelChange::Describe { name, events } => {
                    let taken: bool = sqlx::query_scalar(
                        "SELECT EXISTS (SELECT 1 FROM channels WHERE team_id = $1 AND name = $2 AND id <> $3)",
                    )
                    .bind(team.uuid())
                    .bind(name.to_string())
                    .bind(id.uuid())
                    .fetch_one(&mut *tx)
                    .await?;
                    if taken {
                        return Ok(TeamAct::Already);
                    }
                    sqlx::query("UPDATE channels SET name = $2, events = $3, updated_at = now() WHERE id = $1")
                        .bind(id.uuid())
                        .bind(name.to_string())
                        .bind(words(events))
                }
                ChannelChange::Configure(config) => sqlx::query(
                    "UPDATE channels SET config = $2, updated_at = now(), attempts = 0, next_attempt_at = now()
                     WHERE id = $1",
                )
                .bind(id.uuid())
                .bind(config),
                ChannelChange::Delete => sqlx::query("DELETE FROM channels WHERE id = $1").bind(id.uuid()),
            };
            query.execute(&mut *tx).await?;
            note(&mut tx, audit).await?;
            let after = find(&mut tx, team, id).await?.unwrap_or(before);
            tx.commit().await?;
            Ok(TeamAct::Done(after))
        })
        .await
    }

    /// A team's channels, by name.
    pub async fn channel_list(&self, team: TeamId) -> Result<Vec<ChannelRow>, StoreError> {
        self.run("list channels", || async {
            read(&mut *self.pool.acquire().await?, team, None).await?.iter().map(channel).collect()
        })
        .await
    }

    /// One of a team's channels.
    pub async fn channel_get(&self, team: TeamId, id: ChannelId) -> Result<Option<ChannelRow>, StoreError> {
        self.run("look up a channel", || async { find(&mut *self.pool.acquire().await?, team, id).await }).await
    }

    /// The same with its sealed configuration.
    pub async fn channel_config(
        &self,
        team: TeamId,
        id: ChannelId,
    ) -> Result<Option<(ChannelRow, Vec<u8>)>, StoreError> {
        self.run("look up what a channel is configured with", || async {
            let rows = read(&mut *self.pool.acquire().await?, team, Some(id)).await?;
            rows.first().map(|row| Ok((channel(row)?, row.try_get("config")?))).transpose()
        })
        .await
    }

    /// Takes up to `limit` channels (or `only` this one) that nobody holds and that events wait for; a try of the first event of
    /// each begins.
    pub async fn channel_claim(
        &self,
        lease: Lease,
        only: Option<ChannelId>,
        limit: u32,
    ) -> Result<Vec<ChannelWork>, StoreError> {
        self.run("claim channels", || async {
            let rows = sqlx::query(
                "WITH due AS (
                   SELECT id FROM channels c WHERE next_attempt_at <= now() AND (lease_until IS NULL OR lease_until < now())
                     AND ($4::uuid IS NULL OR id = $4) AND EXISTS (SELECT 1 FROM channel_events e WHERE e.channel_id = c.id)
                   ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED)
                 UPDATE channels c SET lease_owner = $2, lease_until = now() + $3 * interval '1 millisecond',
                   attempts = attempts + 1
                 FROM due, LATERAL (SELECT seq, payload::text AS payload FROM channel_events e
                   WHERE e.channel_id = due.id ORDER BY seq LIMIT 1) first
                 WHERE c.id = due.id RETURNING c.id, c.provider, c.config, c.attempts, first.seq, first.payload",
            )
            .bind(i64::from(limit))
            .bind(lease.owner)
            .bind(lease.keep.as_millis() as f64)
            .bind(only.map(ChannelId::uuid))
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(work).collect()
        })
        .await
    }

    /// Keeps a channel while a call lasts. False: it is deleted or somebody else's.
    pub async fn channel_renew(&self, lease: Lease, id: ChannelId) -> Result<bool, StoreError> {
        self.lease_renew(Leased::Channels, lease, id.uuid()).await
    }

    /// Gives a channel back, to be tried again after `pause`. Does nothing when it is no longer the caller's.
    pub async fn channel_postpone(&self, owner: Uuid, id: ChannelId, pause: Duration) -> Result<(), StoreError> {
        self.lease_return(Leased::Channels, owner, id.uuid(), pause).await
    }

    /// Notes why a try failed.
    pub async fn channel_failed(&self, id: ChannelId, error: &str) -> Result<(), StoreError> {
        self.run("note that a channel failed", || async {
            sqlx::query("UPDATE channels SET failed_at = now(), error = $2 WHERE id = $1")
                .bind(id.uuid())
                .bind(error)
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }

    /// An event is over: taken, or given up. Answers the next one, a try of which begins; none when nothing waits or the channel is
    /// no longer the caller's.
    pub async fn channel_next(
        &self,
        owner: Uuid,
        id: ChannelId,
        seq: i64,
        taken: bool,
    ) -> Result<Option<ChannelEvent>, StoreError> {
        self.run("finish an event of a channel", || async {
            let mut tx = self.pool.begin().await?;
            let gone = sqlx::query("DELETE FROM channel_events WHERE channel_id = $1 AND seq = $2")
                .bind(id.uuid())
                .bind(seq)
                .execute(&mut *tx)
                .await?;
            let next: Option<(i64, String)> = sqlx::query_as(
                "SELECT seq, payload::text FROM channel_events WHERE channel_id = $1 ORDER BY seq LIMIT 1",
            )
            .bind(id.uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let held = sqlx::query(
                "UPDATE channels SET attempts = $3, given_up = given_up + $4,
                   last_delivered_at = CASE WHEN $5 THEN now() ELSE last_delivered_at END
                 WHERE id = $1 AND lease_owner = $2",
            )
            .bind(id.uuid())
            .bind(owner)
            .bind(i32::from(next.is_some()))
            .bind(if taken { 0 } else { gone.rows_affected() as i64 })
            .bind(taken)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            let next = next.filter(|_| held.rows_affected() == 1);
            Ok(next.map(|(seq, payload)| ChannelEvent { seq, payload, attempts: 1 }))
        })
        .await
    }
}

fn words(events: &[EventType]) -> Vec<&'static str> {
    events.iter().map(|kind| kind.as_str()).collect()
}

async fn find(tx: &mut PgConnection, team: TeamId, id: ChannelId) -> Result<Option<ChannelRow>, sqlx::Error> {
    read(tx, team, Some(id)).await?.first().map(channel).transpose()
}

async fn read(tx: &mut PgConnection, team: TeamId, id: Option<ChannelId>) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(
        "SELECT c.*, (SELECT count(*) FROM channel_events e WHERE e.channel_id = c.id) AS waiting
         FROM channels c WHERE c.team_id = $1 AND ($2::uuid IS NULL OR c.id = $2) ORDER BY c.name",
    )
    .bind(team.uuid())
    .bind(id.map(ChannelId::uuid))
    .fetch_all(tx)
    .await
}

/// A team's end is its channels' end.
pub(super) async fn forget(tx: &mut PgConnection, team: TeamId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM channels WHERE team_id = $1").bind(team.uuid()).execute(tx).await.map(|_| ())
}

fn provider(row: &PgRow) -> Result<Provider, sqlx::Error> {
    row.try_get::<&str, _>("provider")?.parse().map_err(|_| corrupt("channels.provider"))
}

fn channel(row: &PgRow) -> Result<ChannelRow, sqlx::Error> {
    let events: Vec<String> = row.try_get("events")?;
    let failed_at: Option<DateTime<Utc>> = row.try_get("failed_at")?;
    let error: Option<String> = row.try_get("error")?;
    Ok(ChannelRow {
        id: ChannelId::from_uuid(row.try_get("id")?),
        team: TeamId::from_uuid(row.try_get("team_id")?),
        name: row.try_get("name")?,
        provider: provider(row)?,
        // A type that only a later version knows is not shown by this one.
        events: events.iter().filter_map(|word| word.parse().ok()).collect(),
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        waiting: u32::try_from(row.try_get::<i64, _>("waiting")?).unwrap_or(u32::MAX),
        last_delivered_at: row.try_get("last_delivered_at")?,
        failure: failed_at.zip(error),
        given_up: row.try_get::<i64, _>("given_up")?.cast_unsigned(),
    })
}

fn work(row: &PgRow) -> Result<ChannelWork, sqlx::Error> {
    Ok(ChannelWork {
        id: ChannelId::from_uuid(row.try_get("id")?),
        provider: provider(row)?,
        config: row.try_get("config")?,
        event: ChannelEvent {
            seq: row.try_get("seq")?,
            payload: row.try_get("payload")?,
            attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).map_err(|_| corrupt("channels.attempts"))?,
        },
    })
}
