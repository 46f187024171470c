//! Marks of use gathered off the path: which keys were used, which sandboxes were active. Written in batches by
//! `tasks/touch_writer`; losing the last seconds of them in a crash is of no matter.

use std::collections::HashSet;
use std::sync::Mutex;

use wrenn_domain::ids::{KeyId, SandboxId};
use wrenn_domain::limits::TOUCHES_MAX;
use wrenn_domain::secret::SecretHash;

use crate::sync::lock;

/// Gathered marks.
#[derive(Default)]
pub struct Touches {
    keys: Mutex<HashSet<KeyId>>,
    sandboxes: Mutex<HashSet<SandboxId>>,
    sessions: Mutex<HashSet<SecretHash>>,
}

impl Touches {
    /// A key was used.
    pub fn key(&self, id: KeyId) {
        note(&self.keys, id);
    }

    /// A sandbox was active.
    pub fn sandbox(&self, id: SandboxId) {
        note(&self.sandboxes, id);
    }

    /// A session was used.
    pub fn session(&self, hash: &SecretHash) {
        note(&self.sessions, hash.clone());
    }

    /// Takes the marked sessions.
    pub fn take_sessions(&self) -> Vec<String> {
        lock(&self.sessions).drain().map(|hash| hash.to_string()).collect()
    }

    /// Takes the marked keys.
    pub fn take_keys(&self) -> Vec<KeyId> {
        lock(&self.keys).drain().collect()
    }

    /// Takes the marked sandboxes.
    pub fn take_sandboxes(&self) -> Vec<SandboxId> {
        lock(&self.sandboxes).drain().collect()
    }
}

fn note<T: std::hash::Hash + Eq>(marks: &Mutex<HashSet<T>>, id: T) {
    let mut marks = lock(marks);
    if marks.len() < TOUCHES_MAX {
        marks.insert(id);
    }
}
