//! Slots made ahead of time, handed out once, taken apart after use. One that does not come apart is quarantined and tried again
//! later; its number stays unused meanwhile.

use crate::failure::cause;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::host::{HostNetworks, HostSlot};
use super::plan::{Bounds, Egress, NUMBER_MAX};
use super::{NetworkError, Slot, Slots};
use crate::instance::Instance;
use crate::mutex::lock;
use crate::start_load::StartLoad;

/// Between two tries to take a quarantined slot apart.
const QUARANTINE_RETRY: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    ready: Vec<HostSlot>,
    /// Every number that is ready, in use or in quarantine.
    taken: BTreeSet<u32>,
    quarantine: Vec<u32>,
}

/// The slots of this host.
pub struct HostSlots(Arc<Inner>);

struct Inner {
    networks: HostNetworks,
    ready_wanted: usize,
    state: Mutex<State>,
    refill: Notify,
    start_load: Arc<StartLoad>,
}

impl HostSlots {
    /// Writes the host's rules; makes no slot yet. [`Slots::maintain`] keeps `ready_wanted` of them ready.
    ///
    /// # Errors
    /// Namespaces cannot be kept here, or the rules are refused.
    pub fn new(
        instance: Instance,
        egress: Egress,
        bounds: Bounds,
        ready_wanted: usize,
        start_load: Arc<StartLoad>,
    ) -> Result<Self, NetworkError> {
        let networks = HostNetworks::new(instance, egress, bounds)?;
        let (state, refill) = (Mutex::default(), Notify::new());
        Ok(Self(Arc::new(Inner { networks, ready_wanted, state, refill, start_load })))
    }
}

impl Slots for HostSlots {
    fn take(&self) -> BoxFuture<'_, Result<Box<dyn Slot>, NetworkError>> {
        Box::pin(async move {
            let ready = self.0.state().ready.pop();
            self.0.refill.notify_one();
            if let Some(slot) = ready {
                return Ok(Box::new(slot) as Box<dyn Slot>);
            }
            let (reply, made) = tokio::sync::oneshot::channel();
            let inner = Arc::clone(&self.0);
            // A task of its own, so that a slot is made whole although the caller may lose interest.
            tokio::spawn(async move {
                if let Err(Ok(unwanted)) = reply.send(inner.make().await) {
                    inner.state().ready.push(unwanted);
                }
            });
            let slot = made.await.unwrap_or(Err(NetworkError::Full))?;
            Ok(Box::new(slot) as Box<dyn Slot>)
        })
    }

    fn adopt(&self, number: u32) -> Result<Box<dyn Slot>, NetworkError> {
        let slot = self.0.networks.open(number)?;
        self.0.state().taken.insert(number);
        Ok(Box::new(slot))
    }

    fn discard(&self, number: u32) -> BoxFuture<'_, ()> {
        Box::pin(self.0.discard(number))
    }

    fn discard_orphans(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async move {
            for number in self.0.networks.list().await? {
                if !self.0.state().taken.contains(&number) {
                    self.0.discard(number).await;
                }
            }
            Ok(())
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async move {
            let ready = std::mem::take(&mut self.0.state().ready);
            for slot in ready {
                let number = slot.number();
                drop(slot);
                self.0.discard(number).await;
            }
            self.0.networks.close()
        })
    }

    fn maintain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                let quarantined = std::mem::take(&mut self.0.state().quarantine);
                for number in quarantined {
                    self.0.discard(number).await;
                }
                self.0.fill().await;
                let _ = tokio::time::timeout(QUARANTINE_RETRY, self.0.refill.notified()).await;
            }
        })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    async fn fill(&self) {
        loop {
            let ready = self.state().ready.len();
            if ready >= self.ready_wanted {
                return;
            }
            self.start_load.wait_idle(ready > 0).await;
            match self.make().await {
                Ok(slot) => self.state().ready.push(slot),
                Err(error) => {
                    tracing::error!(error = cause(&error), "cannot make a network ahead of time");
                    return;
                }
            }
        }
    }

    async fn make(&self) -> Result<HostSlot, NetworkError> {
        let number = {
            let mut state = self.state();
            let number = (1..=NUMBER_MAX).find(|n| !state.taken.contains(n)).ok_or(NetworkError::Full)?;
            state.taken.insert(number);
            number
        };
        match self.networks.build(number).await {
            Ok(slot) => Ok(slot),
            Err(error) => {
                self.discard(number).await;
                Err(error)
            }
        }
    }

    async fn discard(&self, number: u32) {
        match self.networks.take_apart(number).await {
            Ok(()) => {
                self.state().taken.remove(&number);
            }
            Err(error) => {
                tracing::error!(
                    slot = number,
                    error = cause(&error),
                    "network slot {number} does not come apart; quarantined"
                );
                let mut state = self.state();
                state.taken.insert(number);
                state.quarantine.push(number);
            }
        }
    }
}
