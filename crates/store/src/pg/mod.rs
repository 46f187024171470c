//! PostgreSQL: the pool, migrations, and the one place that decides what is tried again.
//!
//! Every query goes through [`Store::run`]: connection trouble is tried again until a deadline, all else is returned
//! at once. Therefore every query here must be safe to run twice (compare-and-set, or insert by id).

mod account_deletion;
mod account_tokens;
mod admin;
mod audit;
mod devices;
mod forks;
mod hosts;
mod installation_settings;
mod jobs;
mod keys;
mod leases;
mod live;
mod members;
mod notification_channels;
mod oauth;
mod outbound_jobs;
mod outbox;
mod passwords;
mod placement;
mod quota;
mod rates;
mod resume_admission;
mod sandbox_work;
mod sandboxes;
mod sessions;
mod signals;
mod snapshots;
mod spans;
mod team_limits;
mod teams;
mod templates;
mod users;

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::sync::watch;
use wrenn_domain::limits::DATABASE_WAIT_MAX;

use crate::StoreError;

pub use account_deletion::{Departure, Ended};
pub use account_tokens::TokenPurpose;
pub use admin::{AdminTeam, AdminUser, EnsureUser, Switched};
pub use audit::{AuditFilter, AuditRow, AuditScope, AuditStatus, Author, NewAudit};
pub use devices::DeviceTaken;
pub use forks::{Forked, NewFork};
pub use hosts::{Host, HostFacts, HostImage, HostStatus};
pub use jobs::{Job, JobKind};
pub use keys::{KeyActor, KeyRow, KeyUser, NewKey};
pub use leases::Lease;
pub use live::{FeedBody, FeedEntry, ResumePoint};
pub use members::Member;
pub use notification_channels::{ChannelChange, ChannelEvent, ChannelRow, ChannelWork, NewChannel};
pub use oauth::{Identity, Linked, OAuthIntent, OAuthSignedUp, OAuthState, Unlinked};
pub use outbound_jobs::{NewOutboundJob, OutboundJob, OutboundJobKind};
pub use outbox::{Begun, DeadLetter, Event, NewEvent, Settled, Taken, Waiting};
pub use placement::{HostLoad, NewSandbox, Placed};
pub use quota::{Quota, QuotaRefusal, Unlimited};
pub use rates::Rate;
pub use resume_admission::Readmitted;
pub use sandbox_work::Work;
pub use sandboxes::{
    Capture, Change, Changed, Desired, Origin, PlacedSandbox, ReportMark, Sandbox, SandboxError, Traffic,
};
pub use sessions::{NewSession, SessionFacts, SessionRow};
pub use signals::{Signal, Signals};
pub use snapshots::{Captured, NewSnapshot, Outcome, SnapshotBegun, SnapshotNews};
pub use spans::{Level, Series, UsageDay};
pub use teams::{NewTeam, Team, TeamAct};
pub use templates::{Template, TemplateKind};
pub use users::{Activated, SignUp, SignedUp, User, UserStatus};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How the pool behaves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// `postgres://...`
    pub url: String,
    /// Connections at most.
    pub connections_max: u32,
    /// Longest wait for a connection and for the answer of one statement.
    pub wait_max: Duration,
}

impl StoreOptions {
    /// Usual bounds for `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), connections_max: 16, wait_max: DATABASE_WAIT_MAX }
    }
}

/// Handle to the database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    wait_max: Duration,
    /// Counts what was written that somebody may be watching for.
    written: watch::Sender<u64>,
}

impl Store {
    /// Prepares the pool without connecting: the database may be away.
    ///
    /// # Errors
    /// When the URL is not one of PostgreSQL.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let connect = PgConnectOptions::from_str(&options.url)
            .map_err(|source| StoreError::of("read DATABASE_URL", source))?
            .application_name("wrenn-cp")
            .options([("statement_timeout", "10s"), ("idle_in_transaction_session_timeout", "30s")]);
        let pool = PgPoolOptions::new()
            .max_connections(options.connections_max)
            .min_connections(1.min(options.connections_max))
            .acquire_timeout(options.wait_max)
            // Broken connections show on use and are tried again; a ping before each use would double the round trips.
            .test_before_acquire(false)
            .idle_timeout(Duration::from_secs(300))
            .max_lifetime(Duration::from_secs(1800))
            .connect_lazy_with(connect);
        Ok(Self { pool, wait_max: options.wait_max, written: watch::Sender::new(0) })
    }

    /// Brings the schema up to date. Safe to call from many processes at once: an advisory lock orders them.
    ///
    /// # Errors
    /// When the database is away, or its schema is a later one.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        MIGRATIONS.run(&self.pool).await.map_err(StoreError::Migrate)
    }

    /// Changes when the schema does; for tests that keep a migrated template.
    pub fn schema_fingerprint() -> String {
        let mut mark: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in MIGRATIONS.iter().flat_map(|m| m.checksum.iter()) {
            mark = (mark ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        format!("{mark:016x}")
    }

    /// One round trip.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.run("ping", || async { sqlx::query("SELECT 1").execute(&self.pool).await.map(|_| ()) }).await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The pool, for tests and extensions that bring their own tables.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Changes after each write of this process that somebody may be watching for: events, and changes of sandboxes' states.
    pub fn writes(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// [`Store::run`] for a write that somebody may be watching for.
    pub(crate) async fn run_seen<T, F, Fut>(&self, act: &'static str, query: F) -> Result<T, StoreError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, sqlx::Error>>,
    {
        let done = self.run(act, query).await?;
        self.written.send_modify(|count| *count += 1);
        Ok(done)
    }

    /// Runs one act, again after connection trouble, until the deadline.
    pub(crate) async fn run<T, F, Fut>(&self, act: &'static str, mut query: F) -> Result<T, StoreError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, sqlx::Error>>,
    {
        let deadline = tokio::time::Instant::now() + self.wait_max;
        let mut pause = Duration::from_millis(5);
        loop {
            let outcome = tokio::time::timeout_at(deadline, query()).await;
            let error = match outcome {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => StoreError::of(act, error),
                Err(_) => return Err(StoreError::Away { act, source: None }),
            };
            if !error.is_away() || tokio::time::Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::debug!(act, error = %error, "database call is tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}
