//! The end of a capsule, awaited by commands that would otherwise wait for ever.

use std::time::Duration;

use wrenn_contract::rest::capsules::{Capsule, CapsuleStatus};

use crate::api::{ApiError, Client, EventStream, Message};
use crate::output::plain;

/// Pauses before the events are asked for again.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Waits until a capsule is in a state it does not leave by itself, or may not be seen any more, and answers with the words for it.
///
/// Hears of changes by the team's events and asks again whenever their stream is opened, so that none is missed.
pub async fn reached(client: &Client, id: &str) -> anyhow::Error {
    let mut pause = PAUSE_MIN;
    loop {
        let stream = EventStream::open(client, None).await;
        if let Some(end) = now(client, id).await {
            return end;
        }
        if let Ok(mut stream) = stream {
            pause = PAUSE_MIN;
            while let Ok(message) = stream.next().await {
                match message {
                    Message::Frame { frame, .. } if frame.resource.as_ref().is_some_and(|about| about.id == id) => {
                        if let Some(end) = now(client, id).await {
                            return end;
                        }
                    }
                    Message::Frame { .. } | Message::CaughtUp | Message::Unknown => {}
                    Message::End => break,
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// Asks for the capsule, and answers with the words for its end; none while it may still change by itself, or cannot be asked for.
pub async fn now(client: &Client, id: &str) -> Option<anyhow::Error> {
    match client.get::<Capsule>(&format!("/v1/capsules/{id}")).await {
        Ok(capsule) => of(&capsule).map(|words| anyhow::anyhow!("{words}")),
        Err(error) if error.status() == Some(404) => Some(anyhow::anyhow!("{}", deleted(id))),
        // A server that is away may come back; one that refuses will go on doing so.
        Err(ApiError::Refused { status, .. }) if status == 429 || status >= 500 => None,
        Err(error @ ApiError::Refused { .. }) => Some(error.into()),
        Err(_) => None,
    }
}

/// Words for a state that a capsule does not leave by itself; none for any other.
pub fn of(capsule: &Capsule) -> Option<String> {
    match capsule.status {
        CapsuleStatus::Stopping | CapsuleStatus::Stopped => Some(deleted(&capsule.id)),
        CapsuleStatus::Error => {
            let why = capsule.error.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
            Some(format!("{} crashed{why}; `wrenn capsule resume {}` boots it from its disk", capsule.id, capsule.id))
        }
        CapsuleStatus::Pending | CapsuleStatus::Starting | CapsuleStatus::Running => None,
        CapsuleStatus::Pausing | CapsuleStatus::Paused | CapsuleStatus::Hibernated => None,
        CapsuleStatus::Resuming | CapsuleStatus::Snapshotting | CapsuleStatus::Missing => None,
    }
}

fn deleted(id: &str) -> String {
    format!("{id} was deleted")
}
