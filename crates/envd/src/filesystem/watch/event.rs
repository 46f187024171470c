//! What happens to a watched directory, and how the kernel's words for it become the protocol's.

use wrenn_contract::proto::filesystem::{EventType, FilesystemEvent};
use wrenn_linux::inotify::{AddWatchFlags, IN_EXCL_UNLINK};

/// Events that the kernel is asked for, for each directory.
pub(super) fn mask() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR
        | IN_EXCL_UNLINK
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Relative to the watched directory; `.` is that itself; empty for [`EventKind::Lost`]. An escaped absolute path where the name is not UTF-8.
    pub name: String,
    pub kind: EventKind,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Made, or moved here.
    Create,
    Write,
    Remove,
    /// Moved away from this name.
    Rename,
    /// Mode, owner, times or attributes.
    Chmod,
    /// Events are missing here.
    Lost,
}

impl EventKind {
    /// Reads the kernel's word; `None` for what no client hears of.
    pub(super) fn of(mask: AddWatchFlags) -> Option<Self> {
        let kinds = [
            (AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO, Self::Create),
            (AddWatchFlags::IN_MODIFY, Self::Write),
            (AddWatchFlags::IN_DELETE | AddWatchFlags::IN_DELETE_SELF, Self::Remove),
            (AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVE_SELF, Self::Rename),
            (AddWatchFlags::IN_ATTRIB, Self::Chmod),
            (AddWatchFlags::IN_UNMOUNT, Self::Remove),
        ];
        kinds.into_iter().find(|(bits, _)| mask.intersects(*bits)).map(|(_, kind)| kind)
    }
}

impl Event {
    /// As it travels. Losses are an event without a name and of unspecified type, which old clients pass over.
    pub fn into_proto(self) -> FilesystemEvent {
        let kind = match self.kind {
            EventKind::Create => EventType::Create,
            EventKind::Write => EventType::Write,
            EventKind::Remove => EventType::Remove,
            EventKind::Rename => EventType::Rename,
            EventKind::Chmod => EventType::Chmod,
            EventKind::Lost => EventType::Unspecified,
        };
        FilesystemEvent { name: self.name, r#type: kind.into(), ..Default::default() }
    }
}
