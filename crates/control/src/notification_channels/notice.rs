//! An event as channels tell it: as JSON for programs, as a few lines for people.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use wrenn_domain::event::{EventType, Outcome};
use wrenn_domain::ids::EventId;
use wrenn_store::pg::{Author, Event};

/// Characters of one value in a text: a text must fit into every provider's message.
const VALUE_CHARS_MAX: usize = 300;

/// Notice that is sent to a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Id of the notice; every try has this one, so that a receiver can tell a second.
    pub id: String,
    /// The event as JSON.
    pub payload: String,
    /// Sentence that says what happened.
    pub summary: String,
    /// The details, with their labels.
    pub lines: Vec<(&'static str, String)>,
}

impl Notice {
    /// Makes the notice of an event as the outbox holds it; none when this version does not know it.
    pub fn of(payload: String) -> Option<Self> {
        let event = Event::read(&payload)?;
        let outcome = event.outcome.map(|outcome| format!(" ({outcome})")).unwrap_or_default();
        let mut lines = vec![
            ("Event", format!("{}{outcome}", event.kind)),
            ("Resource", format!("{} {}", event.resource_type, event.resource_id)),
            ("Actor", who(&event.author)),
            ("Team", event.team.to_string()),
            ("Time", moment(event.timestamp)),
        ];
        lines.extend(event.error.clone().map(|error| ("Error", error)));
        lines.extend(event.metadata.get("reason").map(|reason| ("Reason", reason.clone())));
        let lines = lines.into_iter().map(|(label, value)| (label, shortened(&value))).collect();
        Some(Self { id: event.id.to_string(), summary: summary(&event), payload, lines })
    }

    /// The event `channel.test`, which no channel can ask for.
    pub fn test(id: EventId, author: &Author, now: DateTime<Utc>) -> Self {
        let payload = json!({
            "id": id,
            "event": "channel.test",
            "timestamp": moment(now),
            "team_id": "test",
            "actor": { "type": author.kind.as_str(), "id": author.id, "name": author.name },
            "resource": { "id": "test", "type": "channel" },
            "metadata": {},
        });
        let lines = vec![("Event", "channel.test".to_owned()), ("Actor", who(author)), ("Time", moment(now))];
        Self {
            id: id.to_string(),
            payload: payload.to_string(),
            summary: "This is a test: what happens to capsules will be told here.".to_owned(),
            lines,
        }
    }

    /// All of it as plain text, a line each.
    pub fn text(&self) -> String {
        let lines = self.lines.iter().map(|(label, value)| format!("\n{label}: {value}"));
        std::iter::once(self.summary.clone()).chain(lines).collect()
    }
}

fn summary(event: &Event) -> String {
    let id = &event.resource_id;
    let went_well = event.outcome != Some(Outcome::Error);
    match event.kind {
        EventType::CapsuleCreate if went_well => format!("Capsule {id} is running."),
        EventType::CapsuleCreate => format!("Capsule {id} could not be created."),
        EventType::CapsulePause if went_well => format!("Capsule {id} is paused."),
        EventType::CapsulePause => format!("Capsule {id} could not be paused; it runs on."),
        EventType::CapsuleResume if went_well => format!("Capsule {id} runs again."),
        EventType::CapsuleResume => format!("Capsule {id} could not be resumed; it stays paused."),
        EventType::CapsuleDestroy if went_well => format!("Capsule {id} is gone."),
        EventType::CapsuleDestroy => format!("Capsule {id} ended by itself."),
        EventType::SnapshotCreate if went_well => format!("Snapshot {id} is there."),
        EventType::SnapshotCreate => format!("Snapshot {id} could not be made."),
        EventType::SnapshotDelete if went_well => format!("Snapshot {id} is deleted."),
        EventType::SnapshotDelete => format!("Snapshot {id} could not be deleted."),
        EventType::HostUp => format!("Host {id} is up."),
        EventType::HostDown => format!("Host {id} is down."),
    }
}

fn who(author: &Author) -> String {
    match (author.name.as_str(), &author.id) {
        ("", None) => author.kind.to_string(),
        ("", Some(id)) => format!("{} {id}", author.kind),
        (name, _) => format!("{} {name}", author.kind),
    }
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// One line, not too long.
fn shortened(value: &str) -> String {
    let line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(error: &str) -> String {
        json!({
            "id": "evt-0000000000000000000000001", "event": "capsule.pause", "outcome": "error",
            "timestamp": "2026-11-30T10:00:00.123456Z", "team_id": "team-0000000000000000000000002",
            "actor": { "type": "system", "id": null, "name": "" },
            "resource": { "id": "cl-0000000000000000000000003", "type": "sandbox" },
            "metadata": { "reason": "ttl_expired" }, "error": error,
        })
        .to_string()
    }

    #[test]
    fn people_read_what_happened_to_what_by_whom_when_and_why() {
        let notice = Notice::of(payload("the disk\nis full")).expect("an event");
        assert_eq!(
            notice.text(),
            "Capsule cl-0000000000000000000000003 could not be paused; it runs on.\n\
             Event: capsule.pause (error)\nResource: sandbox cl-0000000000000000000000003\nActor: system\n\
             Team: team-0000000000000000000000002\nTime: 2026-11-30T10:00:00Z\nError: the disk is full\nReason: ttl_expired"
        );
        assert_eq!(notice.payload, payload("the disk\nis full"));
    }

    #[test]
    fn a_text_fits_into_every_message() {
        let notice = Notice::of(payload(&"é".repeat(100_000))).expect("an event");
        // Discord's bound, the tightest of all, is 2000 characters.
        assert!(notice.text().chars().count() < 1000, "{}", notice.text().len());
        assert!(Notice::of("{}".to_owned()).is_none());
    }
}
