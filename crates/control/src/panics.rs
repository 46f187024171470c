//! The text of a caught panic, for the log.

use std::any::Any;

/// Reads the message a panic was raised with; "?" for one that carries no text.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
