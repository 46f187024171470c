//! What a copy did: bytes, and what was left out or changed on the way. People read it line by line, programs as JSON.

use serde::Serialize;

use crate::output::{Output, plain};

/// Lines kept for programs; a folder full of sockets must not fill memory.
const NOTES_MAX: usize = 1000;

/// Outcome of a copy whose other end has confirmed it.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Report {
    /// Bytes of the files that were copied.
    pub bytes: u64,
    /// Entries that could not be copied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Entries that were left out because of their kind, or that changed while they were copied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Report {
    /// An entry could not be copied; the rest is.
    pub fn fail(&mut self, output: &Output, text: &str) {
        add(&mut self.failed, output, text);
    }

    /// Something the user should know, which is no failure.
    pub fn note(&mut self, output: &Output, text: &str) {
        add(&mut self.notes, output, text);
    }

    /// Whether any entry could not be copied.
    pub fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }
}

fn add(list: &mut Vec<String>, output: &Output, text: &str) {
    let text = plain(text);
    output.note(&format!("wrenn: {text}"));
    if list.len() < NOTES_MAX {
        list.push(text);
    }
}
