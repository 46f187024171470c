//! One network for each sandbox: a namespace with the guest's tap, a link to the host, and rules on both ends.
//!
//! [`plan`] says what a network is, [`host`] makes and removes one on this host, [`pool`] keeps some ready. Others see [`Slots`] and
//! [`Slot`] only.

mod error;
mod host;
mod plan;
mod pool;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::sockets::Sockets;

pub use error::NetworkError;
pub use host::{forward_on_host, try_out};
pub use plan::{Bounds, Egress, host_table_name};
pub use pool::HostSlots;

/// A ready network that belongs to one sandbox. Dropping it changes nothing on the host: [`Slots::discard`] takes it apart.
pub trait Slot: Send + Sync {
    /// Returns the number that the ledger keeps.
    fn number(&self) -> u32;

    /// Opens the way to the guest anew, so that it can outlive the slot.
    ///
    /// # Errors
    /// The network is gone.
    fn sockets(&self) -> Result<Arc<dyn Sockets>, NetworkError>;

    /// Opens the guest's end of the cable for a VMM.
    ///
    /// # Errors
    /// The network is gone or the tap is in use.
    fn open_tap(&self) -> Result<OwnedFd, NetworkError>;

    /// Opens the network's namespace, for a VMM to run in.
    ///
    /// # Errors
    /// The network is gone.
    fn namespace(&self) -> Result<OwnedFd, NetworkError>;

    /// Returns the user, and group, that a VMM with this network runs as: no other process on this machine has it.
    fn vmm_user(&self) -> u32;

    /// Counts the bytes that have passed the guest's cable, both ways, since the slot was made.
    ///
    /// # Errors
    /// The network is gone.
    fn traffic_bytes(&self) -> BoxFuture<'_, io::Result<u64>>;
}

/// The networks of one host.
pub trait Slots: Send + Sync {
    /// Hands out a ready slot. When the caller loses interest meanwhile, the slot is kept for the next one.
    ///
    /// # Errors
    /// Every number is in use, or a step of making a network failed.
    fn take(&self) -> BoxFuture<'_, Result<Box<dyn Slot>, NetworkError>>;

    /// Takes over the slot of a sandbox that an earlier agent left.
    ///
    /// # Errors
    /// The network is gone.
    fn adopt(&self, number: u32) -> Result<Box<dyn Slot>, NetworkError>;

    /// Takes a slot apart; its number is free again when nothing of it is left.
    fn discard(&self, number: u32) -> BoxFuture<'_, ()>;

    /// Takes every slot apart that an earlier agent left and nobody adopted.
    ///
    /// # Errors
    /// The host's networks cannot be listed.
    fn discard_orphans(&self) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Removes unused slots and the host's rules; slots in use must be discarded before.
    ///
    /// # Errors
    /// The rules do not go.
    fn close(&self) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Keeps some slots ready, for as long as the agent runs.
    fn maintain(&self) -> BoxFuture<'_, ()>;
}
