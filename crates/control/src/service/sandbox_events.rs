//! What the outside is told of a sandbox's change: the event, and the audit row of what went wrong, both written with it.

use std::collections::BTreeMap;

use wrenn_domain::SandboxErrorCode;
use wrenn_domain::event::{EventType, Outcome, news_of};
use wrenn_domain::ids::EventId;
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::{AuditStatus, Author, Change, NewAudit, NewEvent, Sandbox};

use crate::random;

/// The change with its news. Those who asked for it are its authors; what happens by itself is the system's.
pub(super) fn with_event(sandbox: &Sandbox, mut change: Change) -> Change {
    let Some(now) = change.state else { return change };
    let Some((kind, outcome)) = news_of(sandbox.state, now) else { return change };
    let by_itself = is_unasked(sandbox.state, kind);
    let author = if by_itself { Author::system() } else { sandbox.requested_by.clone().unwrap_or_else(Author::system) };
    let mut metadata = BTreeMap::new();
    if let Some(reason) = reason(sandbox, kind, outcome) {
        metadata.insert("reason".to_owned(), reason.to_owned());
    }
    if let Some(code) = change.error.as_ref().and_then(|error| error.code) {
        metadata.insert("code".to_owned(), code.to_string());
    }
    if metadata.get("reason").is_some_and(|reason| reason == TTL_EXPIRED) {
        let mut row = NewAudit::new(sandbox.team, Author::system(), "sandbox", action(kind)).on(sandbox.id);
        row.status = AuditStatus::Info;
        row.metadata = metadata.clone();
        change.audit.push(row);
    }
    if outcome == Outcome::Error {
        let mut row = NewAudit::new(sandbox.team, Author::system(), "sandbox", action(kind)).on(sandbox.id);
        row.status = AuditStatus::Error;
        row.metadata = metadata.clone();
        change.audit.push(row);
    }
    change.events.push(NewEvent {
        id: EventId::from_uuid(random::id()),
        kind,
        outcome: Some(outcome),
        team: sandbox.team,
        author,
        resource_type: "sandbox",
        resource_id: sandbox.id.to_string(),
        metadata,
        error: change.error.as_ref().filter(|_| outcome == Outcome::Error).map(|error| error.message.clone()),
    });
    change
}

/// Nobody's wish was being carried out.
fn is_unasked(was: SandboxState, kind: EventType) -> bool {
    match kind {
        EventType::CapsuleDestroy => was != SandboxState::Stopping,
        EventType::CapsulePause => was != SandboxState::Pausing,
        EventType::CapsuleResume => was != SandboxState::Resuming,
        _ => false,
    }
}

/// Reason of a sandbox that its host paused because nobody used it for as long as its user allowed.
const TTL_EXPIRED: &str = "ttl_expired";

fn reason(sandbox: &Sandbox, kind: EventType, outcome: Outcome) -> Option<&'static str> {
    let was = sandbox.state;
    match (kind, outcome) {
        (EventType::CapsuleCreate, Outcome::Error) => Some("create_failed"),
        (EventType::CapsulePause, Outcome::Error) => Some(SandboxErrorCode::PauseFailed.as_str()),
        (EventType::CapsuleResume, Outcome::Error) => Some(SandboxErrorCode::ResumeFailed.as_str()),
        (EventType::CapsuleDestroy, Outcome::Error) => Some("host_failure"),
        (EventType::CapsuleDestroy, Outcome::Success) if was != SandboxState::Stopping => Some("orphaned"),
        (EventType::CapsulePause, Outcome::Success) if was == SandboxState::Missing => {
            Some("restored_after_host_recovery")
        }
        // A host pauses by itself for this only.
        (EventType::CapsulePause, Outcome::Success) if was == SandboxState::Running && !sandbox.timeout.is_never() => {
            Some(TTL_EXPIRED)
        }
        (EventType::CapsulePause, Outcome::Success) if was != SandboxState::Pausing => Some("host_state_sync"),
        _ => None,
    }
}

fn action(kind: EventType) -> &'static str {
    match kind {
        EventType::CapsuleCreate => "create",
        EventType::CapsulePause => "pause",
        EventType::CapsuleResume => "resume",
        _ => "error",
    }
}
