//! Notification channels: each a queue of events, written in the transactions that tell of them and sent in order by whoever
//! holds the channel.
//!
//! Owner of: channels, channel_events.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::event::EventType;
use wrenn_domain::ids::{ChannelId, TeamId, UserId};
use wrenn_domain::limits::CHANNELS_PER_TEAM_MAX;
use wrenn_domain::notification_channel::{ChannelName, Provider};
use wrenn_domain::role::Act;

use super::audit::{NewAudit, note};
use super::leases::{Lease, LeasedTable, leased_table};
use super::teams::{TeamAct, acting_role};
use crate::error::corrupt;
use crate::{Store, StoreError};

const CHANNELS: LeasedTable = leased_table!(
    "channels",
    kind "true",
    due "EXISTS (SELECT 1 FROM channel_events e WHERE e.channel_id = t.id)",
    counted "1",
    select "SELECT taken.id, taken.provider, taken.config, taken.attempts, first.seq, first.payload
            FROM taken, LATERAL (SELECT seq, payload::text AS payload FROM channel_events e
              WHERE e.channel_id = taken.id ORDER BY seq LIMIT 1) first"
);

/// The statement that writes an event and, in the same breath, queues it for every notification channel of its team that
/// subscribes to its type. `$insert` returns `team_id` and `payload` of what it wrote. An event that comes while a channel has
/// `waiting_max` events waiting counts as given up; counting waits for nobody (SKIP LOCKED), so that no two such transactions
/// can wait for each other.
macro_rules! queue_for_channels {
    ($insert:literal, event $event:literal, waiting_max $max:literal) => {
        concat!(
            "WITH written AS (",
            $insert,
            "),
             subscribed AS (
               SELECT c.id, written.payload,
                 (SELECT count(*) FROM (SELECT 1 FROM channel_events e WHERE e.channel_id = c.id LIMIT ",
            $max,
            ") w) < ",
            $max,
            " AS fits FROM written JOIN channels c ON c.team_id = written.team_id AND ",
            $event,
            " = ANY (c.events)),
             lost AS (
               UPDATE channels SET given_up = given_up + 1 WHERE id IN (
                 SELECT c.id FROM channels c JOIN subscribed ON subscribed.id = c.id
                 WHERE NOT subscribed.fits FOR NO KEY UPDATE OF c SKIP LOCKED))
             INSERT INTO channel_events (channel_id, payload) SELECT id, payload FROM subscribed WHERE fits"
        )
    };
}
pub(super) use queue_for_channels;

/// Channels are of one kind.
const ANY_KIND: &str = "";

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

/// Change of a channel.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn channel_list(&self, team: TeamId) -> Result<Vec<ChannelRow>, StoreError> {
        self.run("list channels", || async {
            read(&mut *self.pool.acquire().await?, team, None).await?.iter().map(channel).collect()
        })
        .await
    }

    /// One of a team's channels.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn channel_get(&self, team: TeamId, id: ChannelId) -> Result<Option<ChannelRow>, StoreError> {
        self.run("look up a channel", || async { find(&mut *self.pool.acquire().await?, team, id).await }).await
    }

    /// Channel of a team with its sealed configuration.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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

    /// Claims up to `limit` channels that nobody holds and that events wait for; a try of the first event of each begins.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn channel_claim(&self, lease: Lease, limit: u32) -> Result<Vec<ChannelWork>, StoreError> {
        self.lease_claim(&CHANNELS, ANY_KIND, lease, limit, work).await
    }

    /// Claims one channel; none when it is held, not due, or nothing waits for it. A try of its first event begins.
    ///
    /// # Errors
    /// When the database is away or the row does not parse.
    pub async fn channel_claim_one(&self, lease: Lease, id: ChannelId) -> Result<Option<ChannelWork>, StoreError> {
        self.lease_claim_one(&CHANNELS, ANY_KIND, lease, id.uuid(), work).await
    }

    /// Keeps a channel while a call lasts. False: it is deleted or somebody else's.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn channel_renew(&self, lease: Lease, id: ChannelId) -> Result<bool, StoreError> {
        self.lease_renew(&CHANNELS, ANY_KIND, lease, id.uuid()).await
    }

    /// Gives a channel back, to be tried again after `pause`. Does nothing when it is no longer the caller's.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn channel_postpone(&self, owner: Uuid, id: ChannelId, pause: Duration) -> Result<(), StoreError> {
        // The attempt was counted when it was claimed.
        self.lease_postpone(&CHANNELS, ANY_KIND, owner, id.uuid(), pause, 0).await
    }

    /// Notes why a try failed.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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

    /// Removes an event that is over: taken, or given up. The next one's tries are counted anew, if the channel is still the caller's.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn channel_finish(&self, owner: Uuid, id: ChannelId, seq: i64, taken: bool) -> Result<(), StoreError> {
        self.run("finish an event of a channel", || async {
            let mut tx = self.pool.begin().await?;
            let gone = sqlx::query("DELETE FROM channel_events WHERE channel_id = $1 AND seq = $2")
                .bind(id.uuid())
                .bind(seq)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "UPDATE channels SET attempts = 0, given_up = given_up + $3,
                   last_delivered_at = CASE WHEN $4 THEN now() ELSE last_delivered_at END
                 WHERE id = $1 AND lease_owner = $2",
            )
            .bind(id.uuid())
            .bind(owner)
            .bind(if taken { 0 } else { gone.rows_affected() as i64 })
            .bind(taken)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
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
