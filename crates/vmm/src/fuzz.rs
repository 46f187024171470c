//! Entry points of the fuzz targets of this crate. Not part of its interface.

use crate::qemu::Message;

/// Fuzz target of one line of QMP.
pub fn qmp(bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else { return };
    // An answer that names a command carries its result or a reason that can be shown.
    if let Message::Answer { outcome: Err(reason), .. } = message {
        assert!(!reason.is_empty(), "a refusal without a reason");
    }
}
