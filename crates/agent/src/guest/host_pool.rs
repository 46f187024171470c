//! Permits of the whole host for what guests' callers use up, shared out so that no guest's callers take them all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Time for one of the guest's own, which was ended for another, to give its permit back.
const PERMIT_WAIT: Duration = Duration::from_secs(1);

/// HostPool bounds one kind of thing for all guests together. When more than half of it is in use, each guest's share is small.
pub struct HostPool {
    permits: Arc<Semaphore>,
    most: usize,
    crowded_share: usize,
}

impl HostPool {
    /// Makes a pool of `most`, of which a guest may have `crowded_share` when more than half are in use.
    pub fn new(most: usize, crowded_share: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(most)), most, crowded_share }
    }

    /// Returns how many one guest may have now, `usual` at most.
    pub fn share(&self, usual: usize) -> usize {
        let crowded = self.permits.available_permits() < self.most / 2;
        if crowded { usual.min(self.crowded_share) } else { usual }
    }

    /// Takes a permit, and waits a moment for one; `None` when the host has no more.
    pub async fn permit_soon(&self) -> Option<OwnedSemaphorePermit> {
        timeout(PERMIT_WAIT, Arc::clone(&self.permits).acquire_owned()).await.ok()?.ok()
    }

    /// Takes a permit; `None` when the host has no more.
    pub fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_small_while_the_host_is_crowded() {
        let pool = HostPool::new(4, 1);
        let mut held: Vec<_> = (0..2).map(|_| pool.permit().unwrap()).collect();
        assert_eq!(pool.share(3), 3, "half of it is free");
        held.extend([pool.permit().unwrap(), pool.permit().unwrap()]);
        assert_eq!(pool.share(3), 1);
        assert!(pool.permit().is_none());
        held.truncate(2);
        assert_eq!(pool.share(3), 3);
    }
}
