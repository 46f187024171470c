//! Making and removing one slot's network on this host.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use wrenn_contract::guest::{GATEWAY_ADDR, GATEWAY_MAC, GUEST_ADDR, GUEST_MAC, LINK_PREFIX};
use wrenn_linux::conntrack::Conntrack;
use wrenn_linux::links::Links;
use wrenn_linux::netns::{self, Netns};
use wrenn_linux::{nft, tap};

use super::plan::{self, Bounds, Egress, HOST_MAC, INNER_MAC, Names, TAP, UPLINK};
use super::{NetworkError, Slot};
use crate::blocking::blocking;
use crate::instance::Instance;
use crate::sockets::Sockets;

/// The network of one slot on this host.
#[derive(Debug)]
pub(super) struct HostSlot {
    number: u32,
    pub(super) netns: Arc<Netns>,
    vmm_user: u32,
}

impl HostSlot {
    fn inside(&self, act: &'static str, source: io::Error) -> NetworkError {
        NetworkError::Inside { act, namespace: self.netns.name().to_owned(), source }
    }
}

impl Slot for HostSlot {
    fn number(&self) -> u32 {
        self.number
    }

    fn sockets(&self) -> Result<Arc<dyn Sockets>, NetworkError> {
        Ok(Arc::new(Netns::open(self.netns.name())?))
    }

    fn open_tap(&self) -> Result<OwnedFd, NetworkError> {
        let opened = self.netns.run(|| tap::open(TAP)).map(OwnedFd::from);
        opened.map_err(|source| self.inside("open the tap", source))
    }

    fn namespace(&self) -> Result<OwnedFd, NetworkError> {
        self.netns.handle().map_err(|source| self.inside("open", source))
    }

    fn vmm_user(&self) -> u32 {
        self.vmm_user
    }

    fn traffic_bytes(&self) -> BoxFuture<'_, io::Result<u64>> {
        let netns = Arc::clone(&self.netns);
        let read = move || netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        blocking(read).map(|table| Ok(tap_bytes(&table?))).boxed()
    }
}

/// Reads what has passed the tap out of a namespace's table of devices: received bytes are the first field, sent bytes the ninth.
/// Source: proc_pid_net(5).
fn tap_bytes(table: &str) -> u64 {
    let line = table.lines().find_map(|line| line.trim().strip_prefix(TAP)?.strip_prefix(':'));
    let fields: Vec<u64> = line.unwrap_or_default().split_whitespace().filter_map(|f| f.parse().ok()).collect();
    fields.first().copied().unwrap_or(0) + fields.get(8).copied().unwrap_or(0)
}

/// Makes and removes the networks of one agent's instance.
pub(super) struct HostNetworks {
    instance: Instance,
    egress: Egress,
    bounds: Bounds,
}

impl HostNetworks {
    /// Writes the host's rules; makes no network yet.
    ///
    /// # Errors
    /// Namespaces cannot be kept here, or the rules are refused.
    pub(super) fn new(instance: Instance, egress: Egress, bounds: Bounds) -> Result<Self, NetworkError> {
        netns::prepare()?;
        nft::replace(&plan::host_table(instance.id(), instance.network(), &bounds))?;
        Ok(Self { instance, egress, bounds })
    }

    fn names(&self, number: u32) -> Names {
        Names::of(self.instance.id(), self.instance.network(), number)
    }

    /// Opens the network that an earlier agent made for slot `number`.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn open(&self, number: u32) -> Result<HostSlot, NetworkError> {
        Ok(self.slot(number, Netns::open(&self.names(number).namespace)?))
    }

    fn slot(&self, number: u32, netns: Netns) -> HostSlot {
        HostSlot { number, netns: Arc::new(netns), vmm_user: plan::vmm_user(self.instance.network(), number) }
    }

    /// Makes the network of slot `number`; what an error leaves is removed by [`HostNetworks::take_apart`].
    ///
    /// # Errors
    /// The step that failed.
    pub(super) async fn build(&self, number: u32) -> Result<HostSlot, NetworkError> {
        let names = self.names(number);
        let namespace = names.namespace.clone();
        let netns = blocking(move || Netns::create(&namespace)).await?;
        let slot = self.slot(number, netns);
        let (host, inner) = (Links::here()?, Links::inside(&slot.netns)?);
        let outside = netns::here().map_err(|source| slot.inside("find the way out of", source))?;
        // Made inside and moved out: on the host the inner end's name would be in the way of another slot made now.
        inner.add_veth(UPLINK, &names.host_link, &outside).await?;
        let link = names.host_link.clone();
        let switched_off = blocking(move || netns::within(&outside, || switch_off_ipv6(&link))).await;
        switched_off.map_err(|source| slot.inside("switch off IPv6 on the link to", source))?;
        host.set_mac(&names.host_link, HOST_MAC).await?;
        host.configure(&names.host_link, names.host_address, 31).await?;
        host.neighbour(&names.host_link, names.inner_address, INNER_MAC).await?;
        let tables = [plan::link_table(&self.bounds), plan::sandbox_table(&self.egress, &self.bounds)];
        let netns = Arc::clone(&slot.netns);
        blocking(move || set_up_inside(&netns, &tables)).await?;
        inner.up("lo").await?;
        inner.set_mac(UPLINK, INNER_MAC).await?;
        inner.configure(UPLINK, names.inner_address, 31).await?;
        // Nobody is ever asked who they are: the first packet waits for no answer, and permanent neighbours take no room in the one
        // table that all namespaces share.
        inner.neighbour(UPLINK, names.host_address, HOST_MAC).await?;
        inner.default_route(names.host_address).await?;
        inner.set_mac(TAP, GATEWAY_MAC).await?;
        inner.configure(TAP, GATEWAY_ADDR, LINK_PREFIX).await?;
        inner.neighbour(TAP, GUEST_ADDR, GUEST_MAC).await?;
        Ok(slot)
    }

    /// Removes everything of slot `number`; what is not there is no error.
    ///
    /// # Errors
    /// The link or the namespace does not go.
    pub(super) async fn take_apart(&self, number: u32) -> Result<(), NetworkError> {
        let names = self.names(number);
        Links::here()?.remove(&names.host_link).await?;
        // Its flows would stay in the host's table for as long as the guest told them to.
        let mark = plan::flow_mark(self.instance.id(), self.instance.network(), number);
        let forgotten = async {
            let conntrack = Conntrack::here()?;
            blocking(move || conntrack.delete_marked(mark)).await
        };
        forgotten.await.map_err(|source| NetworkError::Flows { number, source })?;
        Ok(blocking(move || netns::remove(&names.namespace)).await?)
    }

    /// Lists the numbers of all slots of this instance that have something on the host.
    ///
    /// # Errors
    /// The host's links cannot be listed.
    pub(super) async fn list(&self) -> Result<BTreeSet<u32>, NetworkError> {
        let prefix = plan::namespace_prefix(self.instance.id());
        let spaces = netns::list(&prefix).into_iter().filter_map(|name| name[prefix.len()..].parse().ok());
        let link_prefix = plan::link_prefix(self.instance.id());
        let links = Links::here()?.list(&link_prefix).await?;
        let links = links.into_iter().filter_map(|name| name[link_prefix.len()..].parse().ok());
        Ok(spaces.chain(links).collect())
    }

    /// Removes the host's rules.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn close(&self) -> Result<(), NetworkError> {
        netns::release();
        Ok(nft::remove(&plan::host_table_name(self.instance.id()))?)
    }
}

/// Switches, rules and tap of a new namespace.
fn set_up_inside(netns: &Netns, tables: &[nft::Table; 2]) -> Result<(), NetworkError> {
    let inside = |act| move |source| NetworkError::Inside { act, namespace: netns.name().to_owned(), source };
    netns.run(set_switches).map_err(inside("switch on forwarding"))?;
    // Rules on frames are kept at the tap itself; no frame can come before them, as the tap is down.
    netns.run(|| tap::open(TAP).map(drop)).map_err(inside("make the tap"))?;
    netns.run(|| Ok(tables.iter().try_for_each(nft::replace))).map_err(inside("write rules"))??;
    Ok(())
}

/// Sets the network stack's switches, seen by a thread inside the namespace.
fn set_switches() -> io::Result<()> {
    for (switch, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("ipv4/conf/all/send_redirects", "0"),
        // Seconds. A flow that ended, or that only one side ever spoke in, is soon forgotten; a silent one lives a day instead of five.
        ("netfilter/nf_conntrack_generic_timeout", "120"),
        ("netfilter/nf_conntrack_tcp_timeout_established", "86400"),
        ("netfilter/nf_conntrack_tcp_timeout_syn_sent", "30"),
        ("netfilter/nf_conntrack_tcp_timeout_fin_wait", "30"),
        ("netfilter/nf_conntrack_tcp_timeout_time_wait", "15"),
        ("netfilter/nf_conntrack_tcp_timeout_unacknowledged", "120"),
    ] {
        set_switch(switch, value)?;
    }
    Ok(())
}

/// An IPv6 stack on a link says things to its other end and keeps neighbours there, of which nobody has any use.
fn switch_off_ipv6(link: &str) -> io::Result<()> {
    set_switch(&format!("ipv6/conf/{link}/disable_ipv6"), "1")
}

fn set_switch(switch: &str, value: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/{switch}"), value) {
        // A kernel without IPv6 has nothing to switch off, and one without this timeout keeps its own.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
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
pub async fn try_out(bounds: Bounds) -> Result<(), NetworkError> {
    blocking(move || {
        let name = format!("wrenn-probe-{}", std::process::id());
        let netns = Netns::create(&name)?;
        let tried =
            set_up_inside(&netns, &[plan::link_table(&bounds), plan::sandbox_table(&Egress::default(), &bounds)]);
        let tried = tried.and_then(|()| {
            // Any mark: nothing was tracked in there.
            let forgotten = netns.run(|| Conntrack::here()?.delete_marked(1));
            forgotten.map_err(|source| NetworkError::Flows { number: 0, source })
        });
        drop(netns);
        netns::remove(&name)?;
        tried
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_counted_both_ways_and_of_the_tap_only() {
        let table = "Inter-| Receive | Transmit\n  lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n\
                     tap0: 1000 9 0 0 0 0 0 0 234 5 0 0 0 0 0 0\n  up0: 50 1 0 0 0 0 0 0 60 1 0 0 0 0 0 0\n";
        assert_eq!(tap_bytes(table), 1234);
        assert_eq!(tap_bytes("tap0: nonsense"), 0);
    }
}
