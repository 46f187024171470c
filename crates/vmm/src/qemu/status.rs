//! Status of a machine, asked of its VMM.

use serde_json::json;

use super::qmp::Qmp;
use crate::VmmError;

/// Status is what a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    Paused,
    /// The guest switched itself off, rebooted or panicked; the VMM only waits to be ended.
    Down,
}

/// Asks a VMM what its machine does.
///
/// # Errors
/// The VMM does not answer.
pub async fn status(qmp: &Qmp) -> Result<Status, VmmError> {
    let answer = qmp.command("query-status", json!({})).await.map_err(|error| VmmError::new("inspect", error))?;
    Ok(match answer["status"].as_str() {
        Some("running") => Status::Running,
        Some("shutdown" | "guest-panicked" | "internal-error" | "io-error") => Status::Down,
        _ => Status::Paused,
    })
}
