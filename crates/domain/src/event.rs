//! What the outside hears of a sandbox's life: which change of state is news, and under which name.
//!
//! Owns: [`news_of`]. Must never: know how news travels.

use crate::sandbox::SandboxState;
use crate::string_enum::string_enum;

string_enum! {
    /// Type of an event, as subscribers name it.
    EventType {
        CapsuleCreate = "capsule.create",
        CapsulePause = "capsule.pause",
        CapsuleResume = "capsule.resume",
        CapsuleDestroy = "capsule.destroy",
        SnapshotCreate = "template.snapshot.create",
        SnapshotDelete = "template.snapshot.delete",
        HostUp = "host.up",
        HostDown = "host.down",
    }
}

/// A change of state, as those who watch name it. No type: it is told while it happens, to nobody who was not there.
pub const STATE_CHANGED: &str = "capsule.state.changed";

string_enum! {
    /// How it ended.
    Outcome {
        Success = "success",
        Error = "error",
    }
}

string_enum! {
    /// Kind of who caused it.
    ActorType {
        User = "user",
        ApiKey = "api_key",
        System = "system",
        Host = "host",
    }
}

/// The news in a sandbox's change of state; none for steps on the way. An event is told when something is so, never when
/// it is merely wanted.
pub const fn news_of(was: SandboxState, now: SandboxState) -> Option<(EventType, Outcome)> {
    use SandboxState as S;
    Some(match (was, now) {
        // Also one its host paused before anybody saw it run.
        (S::Starting, S::Running | S::Paused) => (EventType::CapsuleCreate, Outcome::Success),
        (S::Starting, S::Error) => (EventType::CapsuleCreate, Outcome::Error),
        (S::Resuming | S::Paused, S::Running) => (EventType::CapsuleResume, Outcome::Success),
        (S::Resuming, S::Paused) => (EventType::CapsuleResume, Outcome::Error),
        (S::Running | S::Pausing | S::Missing, S::Paused) => (EventType::CapsulePause, Outcome::Success),
        (S::Pausing, S::Running) => (EventType::CapsulePause, Outcome::Error),
        (S::Stopped, S::Stopped) => return None,
        (_, S::Stopped) => (EventType::CapsuleDestroy, Outcome::Success),
        // It ended by itself: nobody asked for a destroy, and it did not go well.
        (S::Running | S::Pausing | S::Paused | S::Snapshotting | S::Resuming | S::Missing, S::Error) => {
            (EventType::CapsuleDestroy, Outcome::Error)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::string_enum::UnknownWord;

    #[test]
    fn the_whole_table_is_as_agreed() {
        let mut table = String::new();
        for was in SandboxState::ALL {
            for now in SandboxState::ALL {
                if let Some((event, outcome)) = news_of(*was, *now) {
                    table.push_str(&format!("{was} -> {now}: {event} {outcome}\n"));
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn every_word_parses_back() {
        for event in EventType::ALL {
            assert_eq!(event.as_str().parse(), Ok(*event));
        }
        assert_eq!("capsule.state.changed".parse::<EventType>(), Err(UnknownWord("capsule.state.changed".to_owned())));
    }
}
