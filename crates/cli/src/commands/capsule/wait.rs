//! Waits for a capsule that is on its way.

use std::time::Duration;

use anyhow::bail;
use wrenn_contract::rest::capsules::{Capsule, CapsuleStatus};

use super::show::word;
use crate::api::Client;
use crate::output::plain;

/// How long `create` waits; above the host's own limit for a guest to become ready (120 s).
const CREATE_WAIT: Duration = Duration::from_secs(180);
/// Pause between two questions about a capsule that is on its way.
pub const ASK_EVERY: Duration = Duration::from_millis(100);

/// Waits until a capsule that starts is running.
///
/// # Errors
/// It came to another state, or is still starting at the end of the wait.
pub async fn wait_running(client: &Client, mut capsule: Capsule) -> anyhow::Result<Capsule> {
    let deadline = tokio::time::Instant::now() + CREATE_WAIT;
    loop {
        match capsule.status {
            CapsuleStatus::Running => return Ok(capsule),
            CapsuleStatus::Pending | CapsuleStatus::Starting => {}
            other => {
                let reason = capsule.error.as_deref().map_or_else(
                    || format!("it is {}", word(other)),
                    |reason| format!("it is {}: {}", word(other), plain(reason)),
                );
                bail!("capsule {} did not start: {reason}", capsule.id);
            }
        }
        if tokio::time::Instant::now() >= deadline {
            bail!(
                "capsule {} is still starting after {} s; look again with `wrenn capsule get {}`",
                capsule.id,
                CREATE_WAIT.as_secs(),
                capsule.id
            );
        }
        tokio::time::sleep(ASK_EVERY).await;
        capsule = get(client, &capsule.id).await?;
    }
}

/// Reads a capsule.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn get(client: &Client, id: &str) -> anyhow::Result<Capsule> {
    Ok(client.get(&format!("/v1/capsules/{id}")).await?)
}
