//! A sandbox while it runs, and what there is of one while it starts.

use std::path::PathBuf;
use std::sync::Arc;

use wrenn_vmm::Machine;

use super::prepared_copy::PreparedCopyTask;
use crate::guest::GuestClient;
use crate::ledger::Ledger;
use crate::network::Slot;
use crate::storage::Disk;

/// Bytes of console shown with a failure.
const CONSOLE_SHOWN: usize = 600;

/// RunningSandbox is what a sandbox holds on the host while it runs.
pub struct RunningSandbox {
    pub ledger: Ledger,
    pub slot: Box<dyn Slot>,
    pub machine: Arc<dyn Machine>,
    pub guest: Arc<GuestClient>,
    /// Disks of its machine, in the order in which the guest sees them.
    pub disks: Vec<Disk>,
    /// Copy of its memory base, for its next capture.
    pub prepared_copy: PreparedCopyTask,
}

/// PartialStart is what a start has taken or made so far. It is kept outside the start's future: when that is dropped or fails, everything that is
/// set must be given back with `teardown::release_partial`.
#[derive(Default)]
pub struct PartialStart {
    pub slot: Option<Box<dyn Slot>>,
    pub machine: Option<Arc<dyn Machine>>,
    /// The way to the guest of a machine that ran before.
    pub guest: Option<Arc<GuestClient>>,
    /// Disks in the directory of the sandbox, or of what was made ahead of time.
    pub disks: Vec<Disk>,
    /// A VMM that holds no guest yet.
    pub vmm: Option<Box<dyn wrenn_vmm::PrestartedVmm>>,
    /// Directory that what was made ahead of time came from.
    pub scratch: Option<PathBuf>,
}

/// Returns the end of a machine's console, fit to be shown: what a guest prints is hostile.
pub async fn console_tail(machine: &Arc<dyn Machine>) -> String {
    let console = machine.console().await;
    let begin = console.len().saturating_sub(CONSOLE_SHOWN);
    let text = String::from_utf8_lossy(&console[begin..]).into_owned();
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<&str> = clean.split_whitespace().collect();
    if words.is_empty() { "(nothing)".to_owned() } else { words.join(" ") }
}

/// Makes a new access token for a guest: 32 random bytes as hex; `None` when the system has no random numbers.
pub fn random_token() -> Option<String> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).ok()?;
    Some(hex::encode(random))
}
