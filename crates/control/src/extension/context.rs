//! What extensions may use of a running server.

use std::sync::Arc;

use axum::extract::FromRef;
use wrenn_domain::secret::Secret;
use wrenn_store::Store;
use wrenn_store::haste::Haste;
use wrenn_store::pg::{HostLoad, NewAudit, NewEvent};
use wrenn_store::{PgConnection, PgPool};

use crate::ca::Ca;
use crate::config::Config;
use crate::context::Context;
use crate::fleet::Fleet;
use crate::mail::{Letter, Mail};
use crate::oauth::OAuthRegistry;
use crate::service::ServiceError;
use crate::service::sessions::SessionCache;

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

    /// What this distribution calls its version.
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
    pub fn redis(&self) -> &Haste {
        &self.0.haste
    }

    /// Clients of the hosts' agents.
    pub fn hosts(&self) -> &Fleet {
        &self.0.fleet
    }

    /// The installation's certificate authority, if it has one.
    pub fn ca(&self) -> Option<&Ca> {
        self.0.config.ca.as_deref()
    }

    /// What hosts carry now, as the scheduler sees it.
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

    /// What this process remembers of sessions.
    pub fn sessions(&self) -> &SessionCache {
        &self.0.sessions
    }

    /// Writes a row of the audit log.
    pub async fn audit(&self, row: &NewAudit) -> Result<(), ServiceError> {
        Ok(self.0.store.audit_note(row).await?)
    }

    /// Tells an event to all who wait for such.
    pub async fn publish(&self, event: NewEvent) -> Result<(), ServiceError> {
        self.0.store.event_tell(&[event]).await?;
        self.0.outbox.notify_one();
        Ok(())
    }

    /// A secret of this installation for one purpose; the same after a restart and on every control plane.
    pub async fn secret(&self, purpose: &str) -> Result<Secret, ServiceError> {
        Ok(self.0.secret().await?.derive(purpose))
    }
}

/// The way mails leave: written down, then sent by whichever control plane comes to it, again until it left.
#[derive(Clone, Copy)]
pub struct Mailer<'a>(&'a Context);

impl Mailer<'_> {
    /// Has a letter sent.
    pub async fn send(&self, letter: Letter) -> Result<(), ServiceError> {
        let errand = Mail::Letter(letter).owed();
        self.0.store.errand_put(&errand).await?;
        self.0.mails.wake_for(errand.id);
        Ok(())
    }

    /// Has a letter sent if the caller's transaction is committed, however this process ends after it; within seconds.
    pub async fn send_in(&self, tx: &mut PgConnection, letter: Letter) -> Result<(), ServiceError> {
        Ok(self.0.store.errand_put_in(tx, &Mail::Letter(letter).owed()).await?)
    }
}

impl FromRef<Arc<Context>> for ServerContext {
    fn from_ref(ctx: &Arc<Context>) -> Self {
        Self(ctx.clone())
    }
}
