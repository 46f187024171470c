//! Slots: networks made ahead of time, handed out once, taken apart after use. One that does not come apart is quarantined
//! and tried again later; its number stays unused meanwhile.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use wrenn_contract::guest::{GATEWAY_ADDR, GATEWAY_MAC, GUEST_ADDR, GUEST_MAC, LINK_PREFIX};
use wrenn_linux::links::{Links, LinksError};
use wrenn_linux::netns::{self, Netns, NetnsError};
use wrenn_linux::nft::{self, NftError};
use wrenn_linux::tap;

use super::plan::{self, Egress, Names, TAP, UPLINK};
use crate::calm::Calm;
use crate::instance::Instance;

/// Numbers: two addresses each of a /16.
const NUMBER_MAX: u32 = 32_767;
/// Between two tries to take a quarantined slot apart.
const QUARANTINE_RETRY: Duration = Duration::from_secs(30);

/// A step with a network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("all {NUMBER_MAX} network slots of this host are in use")]
    Full,
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    #[error(transparent)]
    Links(#[from] LinksError),
    #[error(transparent)]
    Rules(#[from] NftError),
    #[error("could not {act} inside namespace {namespace}")]
    Inside { act: &'static str, namespace: String, source: io::Error },
}

/// A ready network.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    netns: Netns,
}

impl Slot {
    /// What the ledger keeps.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Where the guest is reached.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The guest's end of the cable, for the VMM.
    pub fn open_tap(&self) -> Result<OwnedFd, NetworkError> {
        let opened = self.netns.run(|| tap::open(TAP)).map(OwnedFd::from);
        opened.map_err(|source| self.inside("open the tap", source))
    }

    /// Bytes that have passed the guest's cable, both ways, since the slot was made.
    pub async fn traffic_bytes(&self) -> io::Result<u64> {
        let table =
            tokio::task::block_in_place(|| self.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")))?;
        // name: received bytes is the first field, sent bytes the ninth. Source: proc_pid_net(5).
        let line = table.lines().find_map(|line| line.trim().strip_prefix(TAP)?.strip_prefix(':'));
        let fields: Vec<u64> = line.unwrap_or_default().split_whitespace().filter_map(|f| f.parse().ok()).collect();
        Ok(fields.first().copied().unwrap_or(0) + fields.get(8).copied().unwrap_or(0))
    }

    fn inside(&self, act: &'static str, source: io::Error) -> NetworkError {
        NetworkError::Inside { act, namespace: self.netns.name().to_owned(), source }
    }
}

#[derive(Default)]
struct State {
    ready: Vec<Slot>,
    /// Every number that is in stock, in use or in quarantine.
    taken: BTreeSet<u32>,
    quarantine: Vec<u32>,
}

/// The stock.
pub struct Slots {
    instance: Instance,
    egress: Egress,
    stock: usize,
    state: Mutex<State>,
    refill: Notify,
    calm: Arc<Calm>,
}

impl Slots {
    /// Writes the host's rules; makes no slot yet.
    pub fn new(instance: Instance, egress: Egress, stock: usize, calm: Arc<Calm>) -> Result<Arc<Self>, NetworkError> {
        netns::prepare()?;
        nft::replace(&plan::host_table(instance.id(), instance.network()))?;
        Ok(Arc::new(Self { instance, egress, stock, state: Mutex::default(), refill: Notify::new(), calm }))
    }

    /// Keeps the stock full and empties the quarantine, for as long as the agent runs.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let quarantined = std::mem::take(&mut self.lock().quarantine);
            for number in quarantined {
                self.discard(number).await;
            }
            loop {
                let ready = self.lock().ready.len();
                if ready >= self.stock {
                    break;
                }
                self.calm.come(ready > 0).await;
                match self.make().await {
                    Ok(slot) => self.lock().ready.push(slot),
                    Err(error) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "cannot make a network ahead of time"
                        );
                        break;
                    }
                }
            }
            let _ = tokio::time::timeout(QUARANTINE_RETRY, self.refill.notified()).await;
        }
    }

    /// A ready slot: from stock, or made now. When the caller loses interest meanwhile, it goes into stock.
    pub async fn take(self: &Arc<Self>) -> Result<Slot, NetworkError> {
        let ready = self.lock().ready.pop();
        self.refill.notify_one();
        if let Some(slot) = ready {
            return Ok(slot);
        }
        let (tell, made) = tokio::sync::oneshot::channel();
        let slots = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(Ok(unwanted)) = tell.send(slots.make().await) {
                slots.lock().ready.push(unwanted);
            }
        });
        made.await.unwrap_or(Err(NetworkError::Full))
    }

    /// The slot of an adopted sandbox.
    pub fn adopt(&self, number: u32) -> Result<Slot, NetworkError> {
        let slot = Slot { number, netns: Netns::open(&self.names(number).namespace)? };
        self.lock().taken.insert(number);
        Ok(slot)
    }

    /// Takes a slot apart; its number is free again when nothing of it is left.
    pub async fn discard(&self, number: u32) {
        match self.take_apart(number).await {
            Ok(()) => {
                self.lock().taken.remove(&number);
            }
            Err(error) => {
                tracing::error!(
                    slot = number,
                    error = &error as &dyn std::error::Error,
                    "network slot {number} does not come apart; quarantined"
                );
                let mut state = self.lock();
                state.taken.insert(number);
                state.quarantine.push(number);
            }
        }
    }

    /// Takes every slot apart that a predecessor left and nobody adopted.
    pub async fn discard_orphans(&self) -> Result<(), NetworkError> {
        let prefix = plan::namespace_prefix(self.instance.id());
        let spaces = netns::list(&prefix).into_iter().filter_map(|name| name[prefix.len()..].parse().ok());
        let link_prefix = plan::link_prefix(self.instance.id());
        let links = Links::here()?.list(&link_prefix).await?;
        let links = links.into_iter().filter_map(|name| name[link_prefix.len()..].parse().ok());
        let found: BTreeSet<u32> = spaces.chain(links).collect();
        for number in found {
            if !self.lock().taken.contains(&number) {
                self.discard(number).await;
            }
        }
        Ok(())
    }

    /// Takes the stock and the host's rules away; slots in use must be discarded before.
    pub async fn close(&self) -> Result<(), NetworkError> {
        let ready = std::mem::take(&mut self.lock().ready);
        for slot in ready {
            let number = slot.number;
            drop(slot);
            self.discard(number).await;
        }
        netns::release();
        Ok(nft::remove(&plan::host_table_name(self.instance.id()))?)
    }

    fn names(&self, number: u32) -> Names {
        Names::of(self.instance.id(), self.instance.network(), number)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    async fn make(&self) -> Result<Slot, NetworkError> {
        let number = {
            let mut state = self.lock();
            let number = (1..=NUMBER_MAX).find(|n| !state.taken.contains(n)).ok_or(NetworkError::Full)?;
            state.taken.insert(number);
            number
        };
        match self.build(number).await {
            Ok(slot) => Ok(slot),
            Err(error) => {
                self.discard(number).await;
                Err(error)
            }
        }
    }

    async fn build(&self, number: u32) -> Result<Slot, NetworkError> {
        let names = self.names(number);
        let slot = Slot { number, netns: Netns::create(&names.namespace)? };
        let (host, inner) = (Links::here()?, Links::inside(&slot.netns)?);
        let outside = netns::here().map_err(|source| slot.inside("find the way out of", source))?;
        // Made inside and moved out: on the host the inner end's name would be in the way of another slot made now.
        inner.add_veth(UPLINK, &names.host_link, &outside).await?;
        host.configure(&names.host_link, names.host_address, 31).await?;
        let table = plan::sandbox_table(&self.egress);
        slot.netns.run(prepare_namespace).map_err(|source| slot.inside("switch on forwarding", source))?;
        slot.netns.run(|| Ok(nft::replace(&table))).map_err(|source| slot.inside("write rules", source))??;
        slot.netns.run(|| tap::open(TAP).map(drop)).map_err(|source| slot.inside("make the tap", source))?;
        inner.up("lo").await?;
        inner.configure(UPLINK, names.inner_address, 31).await?;
        inner.default_route(names.host_address).await?;
        inner.set_mac(TAP, GATEWAY_MAC).await?;
        inner.configure(TAP, GATEWAY_ADDR, LINK_PREFIX).await?;
        // The guest is never asked who it is: the first packet to it must not wait for an answer.
        inner.neighbour(TAP, GUEST_ADDR, GUEST_MAC).await?;
        Ok(slot)
    }

    async fn take_apart(&self, number: u32) -> Result<(), NetworkError> {
        let names = self.names(number);
        Links::here()?.remove(&names.host_link).await?;
        Ok(netns::remove(&names.namespace)?)
    }
}

/// Switches of the network stack, seen by a thread inside the namespace.
fn prepare_namespace() -> io::Result<()> {
    for (switch, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("ipv4/conf/all/send_redirects", "0"),
    ] {
        let path = format!("/proc/sys/net/{switch}");
        match std::fs::write(&path, value) {
            // A kernel without IPv6 has nothing to switch off.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Lets the host forward packets at all.
///
/// # Errors
/// /proc is read-only: an administrator must set net.ipv4.ip_forward=1.
pub fn forward_on_host() -> io::Result<()> {
    const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(SWITCH)?.trim() == "1" {
        return Ok(());
    }
    std::fs::write(SWITCH, "1")
}

/// Makes a namespace with a tap and rules in it and removes it again, to see whether this machine can.
///
/// # Errors
/// The step that failed.
pub async fn try_out() -> Result<(), NetworkError> {
    let name = format!("wrenn-probe-{}", std::process::id());
    let netns = Netns::create(&name)?;
    let table = plan::sandbox_table(&Egress::default());
    let tried = (|| {
        let inside = |act, source| NetworkError::Inside { act, namespace: name.clone(), source };
        netns.run(|| tap::open(TAP).map(drop)).map_err(|source| inside("make a tap", source))?;
        netns.run(|| Ok(nft::replace(&table))).map_err(|source| inside("write rules", source))??;
        Ok(())
    })();
    drop(netns);
    netns::remove(&name)?;
    tried
}
