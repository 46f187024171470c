//! One directory being watched.

use std::sync::Arc;

use super::hub::Hub;
use super::queue::Queue;

/// A directory being watched. Dropping it ends that.
pub struct Watch {
    hub: Arc<Hub>,
    /// Number of the watcher in its hub.
    pub(super) id: u64,
    pub(super) queue: Arc<Queue>,
}

impl Watch {
    /// Takes over a watcher that was added to the hub.
    pub(super) fn new(hub: Arc<Hub>, id: u64, queue: Arc<Queue>) -> Self {
        Self { hub, id, queue }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.remove(self.id);
    }
}
