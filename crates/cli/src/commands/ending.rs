//! Why a long call ended before its time: what became of the capsule under it.

use wrenn_contract::rest::capsules::{Capsule, CapsuleStatus};

use crate::api::{ApiError, Client, KEY_REMEDY};
use crate::output::plain;

/// The error for a stream that ended early, with the server's last words if there were any. Asks what the capsule is doing now: it may have
/// been paused or deleted under the call.
pub async fn explain(client: &Client, id: &str, said: Option<&str>) -> anyhow::Error {
    let capsule = client.get::<Capsule>(&format!("/v1/capsules/{id}")).await;
    if let Some(reason) = of_capsule(id, capsule.as_ref()) {
        return anyhow::anyhow!("{reason}");
    }
    if let Err(error) = &capsule
        && error.status() == Some(401)
    {
        return anyhow::anyhow!("the key or login in use was taken back, which ended this call; {KEY_REMEDY}");
    }
    match said {
        Some(text) => anyhow::anyhow!("{}", plain(text)),
        None => ApiError::Broken { reason: "the stream ended without an exit code".into() }.into(),
    }
}

/// Puts the cause in front of an error that a broken connection alone does not explain: the capsule was paused or deleted, or the key was
/// taken back.
pub async fn explained(client: &Client, id: &str, error: anyhow::Error) -> anyhow::Error {
    let broke = error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<ApiError>(),
            Some(ApiError::Broken { .. } | ApiError::Unreachable { .. } | ApiError::NotWrenn { .. })
        )
    });
    if !broke {
        return error;
    }
    let said = format!("{error:#}");
    let explained = explain(client, id, Some(&said)).await;
    if explained.to_string() == plain(&said) { error } else { explained }
}

/// Words for a state of the capsule that ended a call; none when it runs as it did.
fn of_capsule(id: &str, capsule: Result<&Capsule, &ApiError>) -> Option<String> {
    let resume = format!("`wrenn capsule resume {id}` brings it back");
    match capsule {
        Ok(capsule) => match capsule.status {
            CapsuleStatus::Running | CapsuleStatus::Pending | CapsuleStatus::Starting => None,
            CapsuleStatus::Snapshotting => None,
            CapsuleStatus::Pausing | CapsuleStatus::Paused | CapsuleStatus::Hibernated => {
                Some(format!("{id} was paused meanwhile, which ended this call; {resume}"))
            }
            CapsuleStatus::Resuming => {
                Some(format!("{id} was paused meanwhile, which ended this call; it is being resumed"))
            }
            CapsuleStatus::Stopping | CapsuleStatus::Stopped => {
                Some(format!("{id} was deleted meanwhile, which ended this call"))
            }
            CapsuleStatus::Missing => Some(format!("the host of {id} is away, which ended this call")),
            CapsuleStatus::Error => {
                let why = capsule.error.as_deref().map(plain).unwrap_or_default();
                Some(format!("{id} crashed meanwhile, which ended this call: {why}"))
            }
        },
        Err(error) if error.status() == Some(404) => Some(format!("{id} was deleted meanwhile, which ended this call")),
        Err(_) => None,
    }
}
