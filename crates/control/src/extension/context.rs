//! What extensions may use of a running server.

use std::sync::Arc;

use axum::extract::FromRef;
use wrenn_domain::secret::Secret;
use wrenn_store::Store;
use wrenn_store::pg::{HostLoad, NewAudit, NewEvent};
use wrenn_store::redis::Redis;
use wrenn_store::{PgConnection, PgPool};

use crate::ca::Ca;
use crate::config::Config;
use crate::context::Context;
use crate::error::ServiceError;
use crate::fleet::Fleet;
use crate::mail::{Letter, Mail};
use crate::oauth::OAuthRegistry;
use crate::state::session_cache::SessionCache;

/// Handle to a running server. Cheap to clone; also the state that guards in an extension's own routers need.
#[derive(Clone)]
pub struct ServerContext(Arc<Context>);

impl ServerContext {
    pub(crate) fn new(ctx: Arc<Context>) -> Self {
        Self(ctx)
    }

    pub(crate) fn inner(&self) -> &Arc<Context> {
        &self.0
    }

    /// Version of this distribution, as it calls it.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Settings of the server.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Connections to the database, for an extension's own tables.
    pub fn pool(&self) -> &PgPool {
        self.0.store.pool()
    }

    /// The core's own queries.
    pub fn queries(&self) -> &Store {
        &self.0.store
    }

    /// Redis: for speed only; it may be away or emptied at any time.
    pub fn redis(&self) -> &Redis {
        &self.0.redis
    }

    /// Clients of the hosts' agents.
    pub fn hosts(&self) -> &Fleet {
        &self.0.fleet
    }

    /// The installation's certificate authority, if it has one.
    pub fn ca(&self) -> Option<&Ca> {
        self.0.config.ca.as_deref()
    }

    /// Reads what hosts carry now, as the scheduler sees it.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn host_loads(&self) -> Result<Vec<HostLoad>, ServiceError> {
        Ok(self.0.store.host_loads().await?)
    }

    /// Sends mails.
    pub fn mailer(&self) -> Mailer<'_> {
        Mailer(&self.0)
    }

    /// Other sites people can log in by.
    pub fn oauth(&self) -> &OAuthRegistry {
        &self.0.oauth
    }

    /// Sessions this process remembers.
    pub fn sessions(&self) -> &SessionCache {
        &self.0.sessions
    }

    /// Writes a row of the audit log.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn audit(&self, row: &NewAudit) -> Result<(), ServiceError> {
        Ok(self.0.store.audit_note(row).await?)
    }

    /// Tells an event to all who wait for such.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn publish(&self, event: NewEvent) -> Result<(), ServiceError> {
        self.0.store.event_publish(&[event]).await?;
        self.0.outbox.notify_one();
        Ok(())
    }

    /// A secret of this installation for one purpose; the same after a restart and on every control plane.
    ///
    /// # Errors
    /// When there is none yet and the database is away.
    pub async fn secret(&self, purpose: &str) -> Result<Secret, ServiceError> {
        Ok(self.0.installation_secret().await?.derive(purpose))
    }
}

/// The way mails leave: written down, then sent by whichever control plane comes to it, again until it left.
#[derive(Clone, Copy)]
pub struct Mailer<'a>(&'a Context);

impl Mailer<'_> {
    /// Has a letter sent.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn send(&self, letter: Letter) -> Result<(), ServiceError> {
        let job = Mail::Letter(letter).outbound_job();
        self.0.store.outbound_job_put(&job).await?;
        self.0.queues.mails.wake_for(job.id);
        Ok(())
    }

    /// Has a letter sent if the caller's transaction is committed, however this process ends after it; within seconds.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn send_in(&self, tx: &mut PgConnection, letter: Letter) -> Result<(), ServiceError> {
        Ok(self.0.store.outbound_job_put_in(tx, &Mail::Letter(letter).outbound_job()).await?)
    }
}

impl FromRef<Arc<Context>> for ServerContext {
    fn from_ref(ctx: &Arc<Context>) -> Self {
        Self(ctx.clone())
    }
}
