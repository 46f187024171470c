//! A failure as callers get it: a closed code for programs and a text for people.

use std::fmt;

pub use wrenn_domain::ErrorCode;

/// A failure as the control plane and the user see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: ErrorCode,
    /// Text for the user: what happened and what to do.
    pub message: String,
}

impl Failure {
    /// Makes a failure of a code and its text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// Returns an error as `tracing` records it, with its whole chain of causes.
pub fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    error
}
