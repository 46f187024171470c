//! Notification channels: what is sent to whom, and how what they are configured with is kept.
//!
//! Must never: know teams or queues (that is `service::notification_channels` and `tasks::channel_sender`), or put an address into an error: it
//! may be a secret.

mod notice;
pub(crate) mod provider;
mod seal;

use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use http::{Response, StatusCode, header};
use tokio::sync::OnceCell;
use wrenn_domain::failure::Failure;
use wrenn_domain::limits::{CHANNEL_CALL_MAX, CHANNEL_RETRY_MAX};
use wrenn_domain::notification_channel::{ChannelConfig, FieldKind};

pub use notice::Notice;
pub use seal::{SealError, Sealer};

use crate::outbound_http::{AddressPolicy, SiteClient, SiteError};

/// Why a notice was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error("it answered {status}")]
    Refused {
        status: StatusCode,
        /// How long it asks to be left alone.
        wait: Option<Duration>,
    },
    #[error("what it is configured with makes no request; set its config anew")]
    Config,
    #[error("this server finds no certificate authorities to trust; its log says more")]
    NoAuthorities,
}

impl SendError {
    /// Whether the receiver looked at the notice and does not want it; what comes after may be welcome.
    pub fn is_about_the_notice(&self) -> bool {
        matches!(self, Self::Refused { status, .. }
            if matches!(*status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY))
    }

    /// How long it asks to be left alone.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Refused { wait, .. } => *wait,
            _ => None,
        }
    }
}

/// The way out.
pub struct Channels {
    pub sealer: Sealer,
    reach: AddressPolicy,
    /// Made when it is first needed: without channels a server runs well without the system's certificates.
    client: OnceCell<SiteClient>,
}

impl Channels {
    /// With the keys of this installation.
    pub fn new(sealer: Sealer, reach: AddressPolicy) -> Self {
        Self { sealer, reach, client: OnceCell::new() }
    }

    /// Judges the addresses of a configuration before it is kept.
    ///
    /// # Errors
    /// When an address of the configuration may not be called.
    pub async fn check(&self, config: &ChannelConfig) -> Result<(), Failure> {
        for field in config.provider().fields().iter().filter(|field| field.kind == FieldKind::Url) {
            let url = config.value(field.name);
            if url.is_empty() {
                continue;
            }
            let judged = self.reach.check(url).await;
            judged.map_err(|error| Failure::invalid(format!("config: {}: {error}", field.name)))?;
        }
        Ok(())
    }

    /// One try.
    ///
    /// # Errors
    /// When the receiver cannot be reached, may not be called, or refuses.
    pub async fn send(&self, config: &ChannelConfig, notice: &Notice) -> Result<(), SendError> {
        let request = provider::request(config, notice, Utc::now()).ok_or(SendError::Config)?;
        let client = self.client.get_or_try_init(|| async {
            SiteClient::new(self.reach).map_err(|error| {
                tracing::error!(%error, "channels cannot be called: the system's certificate authorities cannot be read");
                SendError::NoAuthorities
            })
        });
        let response = client.await?.call(request, CHANNEL_CALL_MAX).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(SendError::Refused { status, wait: retry_after(&response) }),
        }
    }
}

/// Seconds; the other form, a date, is as good as nothing: clocks differ.
fn retry_after(response: &Response<Bytes>) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    // Discord's have decimals.
    let seconds: f64 = text.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().map(|wait| wait.min(CHANNEL_RETRY_MAX))
}
