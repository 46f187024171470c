//! What every room of a running control plane shares.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use wrenn_domain::limits::{
    ANSWER_PROGRESS_MAX, CHANNEL_RETRY_MAX, CHANNEL_RETRY_MIN, CREATE_GIVE_UP, FORK_WAIT_MAX, HOST_SILENCE_MAX,
    MAIL_RETRY_MAX, MAIL_RETRY_MIN, MAIL_SEND_MAX, STREAM_PING_EVERY, STREAM_SILENCE_MAX, STREAMS_PER_CREDENTIAL_MAX,
};
use wrenn_domain::secret::Secret;
use wrenn_store::Store;
use wrenn_store::pg::Lease;
use wrenn_store::redis::Redis;

use crate::config::Config;
use crate::error::ServiceError;
use crate::extension::context::ServerContext;
use crate::extension::plugin::Extension;
use crate::fault::Faults;
use crate::fleet::Fleet;
use crate::notification_channels::{Channels, Sealer};
use crate::oauth::{Github, OAuthRegistry};
use crate::outbound_http::{AddressPolicy, SiteClient};
use crate::passwords::Passwords;
use crate::queue::Queues;
use crate::random;
use crate::state::disk_usage::DiskUsage;
use crate::state::event_feed::EventFeed;
use crate::state::key_cache::KeyCache;
use crate::state::permits::Permits;
use crate::state::port_routes::PortRoutes;
use crate::state::session_cache::SessionCache;
use crate::state::touches::Touches;

/// Shared state. One per process (tests make several).
pub struct Context {
    /// Shown by /health and in the API description.
    pub version: String,
    pub config: Config,
    pub store: Store,
    pub redis: Redis,
    pub fleet: Fleet,
    pub keys: KeyCache,
    pub sessions: SessionCache,
    pub passwords: Passwords,
    pub touches: Touches,
    /// Pools of what clients hold open.
    pub permits: Permits,
    /// The ways of traffic to ports of sandboxes.
    pub port_routes: PortRoutes,
    pub oauth: OAuthRegistry,
    /// In the order given.
    pub extensions: Vec<Arc<dyn Extension>>,
    /// Turns at asking an extension for usage.
    pub usage_turns: Arc<Semaphore>,
    pub disk_usage: DiskUsage,
    /// Events on their way to those who watch.
    pub feed: Arc<EventFeed>,
    /// Counts revocations this process made or heard of: each wakes all who watch a credential.
    pub revocations: watch::Sender<u64>,
    /// Notified when something was put into the outbox.
    pub outbox: Notify,
    /// Notified when a dead letter is to be delivered again.
    pub deliveries: Notify,
    /// The ways into the background work.
    pub queues: Queues,
    /// How notification channels are called.
    pub channels: Channels,
    /// Notified whenever a fork is over here; who waits for one that another control plane drives asks the database from time to time.
    pub fork_done: Notify,
    pub tuning: Tuning,
    pub faults: Faults,
    /// Marks this process's leases.
    pub owner: Uuid,
    /// Set when the process is asked to end.
    pub stop: CancellationToken,
    /// Counts every background task.
    pub tasks: TaskTracker,
    secret: OnceCell<Secret>,
    me: Weak<Context>,
}

/// Times of the background work. Production uses the defaults; tests shorten them.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// How long a row stays leased; also how long after a crash its work is taken over.
    pub lease: Duration,
    /// Deadline of a lifecycle call to a host; below the lease, so that its outcome is written while it holds.
    pub host_call: Duration,
    /// First pause after a failed call; doubles up to `retry_max`.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// A host accepted a wish but has not reported its end: ask again after this.
    pub recheck: Duration,
    /// Longest wait of one listening call to a host.
    pub watch_wait: Duration,
    /// How long a host's watch stays leased.
    pub watch_lease: Duration,
    /// Between two full comparisons of a host with its rows.
    pub compare_every: Duration,
    /// A host not heard of for this long is away.
    pub host_silence: Duration,
    /// Between two looks for silent hosts.
    pub reconcile_every: Duration,
    /// A create or fork its host does not take is given up after this.
    pub create_give_up: Duration,
    /// First pause after a delivery of an event failed; doubles.
    pub event_retry_min: Duration,
    /// An event the stream has not brought by then is taken from the outbox.
    pub event_overdue: Duration,
    /// Sending one mail.
    pub mail_send: Duration,
    /// First pause after a mail did not leave; doubles up to `mail_retry_max`.
    pub mail_retry_min: Duration,
    pub mail_retry_max: Duration,
    /// First pause after a channel did not take an event; doubles up to `channel_retry_max`.
    pub channel_retry_min: Duration,
    pub channel_retry_max: Duration,
    /// Longest wait of a fork request for its host.
    pub fork_wait: Duration,
    /// Between two pings on a WebSocket.
    pub stream_ping: Duration,
    /// A WebSocket's peer that was silent for this long is gone.
    pub stream_silence: Duration,
    /// Time within which a client must take the next bytes of an answer.
    pub answer_progress: Duration,
    /// WebSockets one key or session may have open.
    pub streams_per_credential: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            host_call: Duration::from_secs(8),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(15),
            recheck: Duration::from_secs(15),
            watch_wait: Duration::from_secs(4),
            watch_lease: Duration::from_secs(10),
            compare_every: Duration::from_secs(30),
            host_silence: HOST_SILENCE_MAX,
            reconcile_every: Duration::from_secs(5),
            create_give_up: CREATE_GIVE_UP,
            event_retry_min: Duration::from_secs(2),
            event_overdue: Duration::from_secs(60),
            mail_send: MAIL_SEND_MAX,
            mail_retry_min: MAIL_RETRY_MIN,
            mail_retry_max: MAIL_RETRY_MAX,
            channel_retry_min: CHANNEL_RETRY_MIN,
            channel_retry_max: CHANNEL_RETRY_MAX,
            fork_wait: FORK_WAIT_MAX,
            stream_ping: STREAM_PING_EVERY,
            stream_silence: STREAM_SILENCE_MAX,
            answer_progress: ANSWER_PROGRESS_MAX,
            streams_per_credential: STREAMS_PER_CREDENTIAL_MAX,
        }
    }
}

impl Context {
    /// Puts the parts together. Connects nothing.
    ///
    /// # Errors
    /// When a setting cannot be used: a URL that is none, a token that cannot be sent, an authority that cannot be trusted.
    pub fn new(
        config: Config,
        version: String,
        tuning: Tuning,
        faults: Faults,
        extensions: Vec<Arc<dyn Extension>>,
    ) -> anyhow::Result<Arc<Self>> {
        // Redis and PostgreSQL speak TLS with it when their URL says so. Another one that is installed already serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let store = Store::new(&wrenn_store::StoreOptions {
            url: config.database_url.clone(),
            connections_max: config.database_connections,
            wait_max: config.database_wait,
        })?;
        let redis = Redis::new(&config.redis_url, &config.redis_prefix)?;
        let fleet = Fleet::new(config.host_token.as_deref(), config.ca.clone(), tuning.host_call)?;
        let oauth = OAuthRegistry::default();
        if let Some(app) = &config.accounts.github {
            oauth.register(Arc::new(Github::new(app.clone(), SiteClient::new(AddressPolicy::Anywhere)?)));
        }
        let reach = if config.channels.allow_private { AddressPolicy::Anywhere } else { AddressPolicy::Public };
        let channels = Channels::new(Sealer::new(&config.channels.keys), reach);
        // A quarter of the connections may be held by creates that ask an extension.
        let usage_turns = Arc::new(Semaphore::new((config.database_connections as usize / 4).max(1)));
        Ok(Arc::new_cyclic(|me| Self {
            version,
            store,
            redis,
            fleet,
            config,
            oauth,
            extensions,
            usage_turns,
            disk_usage: DiskUsage::default(),
            feed: Arc::default(),
            revocations: watch::Sender::default(),
            outbox: Notify::new(),
            deliveries: Notify::new(),
            secret: OnceCell::new(),
            me: me.clone(),
            keys: KeyCache::default(),
            sessions: SessionCache::default(),
            passwords: Passwords::default(),
            touches: Touches::default(),
            permits: Permits::new(tuning.streams_per_credential),
            port_routes: PortRoutes::default(),
            queues: Queues::default(),
            channels,
            fork_done: Notify::new(),
            tuning,
            faults,
            owner: Uuid::new_v4(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// The handle extensions get; none only while the last of it is dropped.
    pub fn server(&self) -> Option<ServerContext> {
        self.me.upgrade().map(ServerContext::new)
    }

    /// Secret this installation's other secrets are derived from: JWT_SECRET, else one made once and kept in the database.
    ///
    /// # Errors
    /// When there is none yet and the database is away or the system gives no random numbers.
    pub async fn installation_secret(&self) -> Result<&Secret, ServiceError> {
        self.secret
            .get_or_try_init(|| async {
                if let Some(text) = &self.config.accounts.secret {
                    return Ok(Secret::from_text(text));
                }
                let kept = self.store.secret_ensure(&random::secret()?.reveal()).await?;
                Ok(Secret::from_text(&kept))
            })
            .await
    }

    /// The lease this process takes rows with.
    pub fn lease(&self) -> Lease {
        Lease { owner: self.owner, keep: self.tuning.lease }
    }
}
