//! Attacks of a guest that owns its end of the cable, on slots in a host and a world of their own: namespaces, no VM.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wrenn_contract::guest::{GATEWAY_ADDR, GATEWAY_MAC, GUEST_ADDR, GUEST_MAC};
use wrenn_linux::conntrack::Conntrack;
use wrenn_linux::links::Links;
use wrenn_linux::netns::{self, Netns};
use wrenn_testkit::skip;

use super::host::{HostNetworks, HostSlot, forward_on_host};
use super::plan::{Bounds, Egress};
use super::{NetworkError, Slot};
use crate::instance::Instance;

/// A server of the world, to which hosts have a route.
const SERVER: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 2);
const DNS_PORT: u16 = 53;
/// Longest wait for packets that must come.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);
/// Rates that no test reaches, and the flows a guest has when nothing is set.
const WIDE: Bounds = Bounds { packets_per_second: 100_000_000, bytes_per_second: 10_000_000_000, flows: 2048 };

/// A host with its networks; its own network is a namespace.
struct Host {
    networks: HostNetworks,
    world: Netns,
}

impl Host {
    async fn build(names: &Names, bounds: Bounds) -> Result<Self, NetworkError> {
        let world = Netns::create(&names.world)?;
        let outside = Links::here()?;
        outside.up("lo").await?;
        let inside_world = world.run(netns::here).expect("a namespace that was just made can be entered");
        outside.add_veth("out0", "in0", &inside_world).await?;
        outside.configure("out0", HOST, 24).await?;
        Links::inside(&world)?.configure("in0", SERVER, 24).await?;
        forward_on_host().expect("a namespace has a switch of its own");
        let instance = Instance::for_tests(names.instance.clone(), Ipv4Addr::new(10, 77, 0, 0));
        Ok(Self { networks: HostNetworks::new(instance, Egress::default(), bounds)?, world })
    }

    fn server(&self) -> UdpSocket {
        self.world.run(|| UdpSocket::bind((SERVER, DNS_PORT))).expect("the world has this address")
    }
}

/// Names of what a test makes on this machine.
struct Names {
    host: String,
    world: String,
    instance: String,
}

impl Names {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed);
        let names = |what| format!("wrenn-test-{what}-{number}");
        Self { host: names("host"), world: names("world"), instance: format!("{:04x}", number & 0xffff) }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // Those of slots are here when a test failed.
        let mut names = netns::list(&super::plan::namespace_prefix(&self.instance));
        names.extend([self.host.clone(), self.world.clone()]);
        for name in names {
            netns::remove(&name).expect("what a test made can be removed");
        }
        netns::release();
    }
}

/// Runs `test` on a host of its own with `slots` slots, and takes all of it apart.
fn on_host(bounds: Bounds, slots: u32, test: impl AsyncFnOnce(&Host, Vec<(HostSlot, Guest)>) + Send) {
    let names = Names::new();
    let Some(host) = skip::require("root", Netns::create(&names.host).map_err(|error| format!("{error:?}"))) else {
        return;
    };
    let ran = host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let host = Host::build(&names, bounds).await.map_err(io::Error::other)?;
            let mut guests = Vec::new();
            for number in 1..=slots {
                let slot = host.networks.build(number).await.map_err(io::Error::other)?;
                let tap = slot.open_tap().map_err(io::Error::other)?;
                guests.push((slot, Guest(File::from(tap))));
            }
            test(&host, guests).await;
            for number in host.networks.list().await.map_err(io::Error::other)? {
                host.networks.take_apart(number).await.map_err(io::Error::other)?;
            }
            host.networks.close().map_err(io::Error::other)
        })
    });
    ran.expect("the host can be made and taken apart");
}

/// The guest's end of a cable.
struct Guest(File);

impl Guest {
    fn send(&self, source: [u8; 6], kind: [u8; 2], packet: &[u8]) {
        // First the head of virtio's frames, in which a guest asks for nothing.
        let frame = [&[0; 10], GATEWAY_MAC.as_slice(), &source, &kind, packet].concat();
        (&self.0).write_all(&frame).expect("a tap takes every frame");
    }

    /// Asks who the gateway is, as `source` with address `sender`.
    fn ask(&self, source: [u8; 6], sender: Ipv4Addr) {
        let head = [0, 1, 8, 0, 6, 4, 0, 1];
        let packet = [&head, source.as_slice(), &sender.octets(), &[0; 6], &GATEWAY_ADDR.octets()].concat();
        self.send(source, [8, 6], &packet);
    }

    /// Asks as itself until the gateway answers: everything sent before has been looked at then.
    fn hear_gateway(&self) {
        const ARP_REPLY: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
        let (begun, mut frame) = (Instant::now(), [0; 2048]);
        while begun.elapsed() < ARRIVAL_MAX {
            // Again, because a busy machine drops frames.
            self.ask(GUEST_MAC, GUEST_ADDR);
            let mut wanted = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            while poll(&mut wanted, PollTimeout::from(50u8)).expect("a tap can be waited for") > 0 {
                let length = (&self.0).read(&mut frame).expect("a tap can be read");
                // After virtio's head and both hardware addresses.
                if frame[..length].get(22..32) == Some(&ARP_REPLY) {
                    return;
                }
            }
        }
        panic!("the gateway does not answer");
    }

    fn send_udp(&self, source: Ipv4Addr, from: u16, to: u16) {
        let mut ip = [0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        ip[12..16].copy_from_slice(&source.octets());
        ip[16..].copy_from_slice(&SERVER.octets());
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        let udp = [from.to_be_bytes(), to.to_be_bytes(), [0, 8], [0, 0]].concat();
        self.send(GUEST_MAC, [8, 0], &[ip.as_slice(), &udp].concat());
    }
}

fn tracked_flows() -> u32 {
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    count.expect("the kernel tracks flows").trim().parse().expect("a count is a number")
}

/// Counts the neighbours, other than permanent ones, of the calling thread's namespace.
fn asked_neighbours() -> io::Result<usize> {
    const PERMANENT: &str = "0x6";
    let table = std::fs::read_to_string("/proc/thread-self/net/arp")?;
    Ok(table.lines().skip(1).filter(|line| line.split_whitespace().nth(2) != Some(PERMANENT)).count())
}

#[test]
fn a_guest_that_lies_about_its_addresses_takes_no_room_among_neighbours() {
    on_host(WIDE, 1, async |_, guests| {
        let (slot, guest) = &guests[0];
        for last in 1..=200u8 {
            guest.ask([2, 0xfc, 1, 0, 0, last], Ipv4Addr::new(169, 254, 0, 23));
            guest.ask(GUEST_MAC, Ipv4Addr::new(169, 254, 7, last));
        }
        guest.hear_gateway();
        guest.send_udp(GUEST_ADDR, 1000, DNS_PORT);
        assert_eq!(slot.netns.run(asked_neighbours).unwrap(), 0, "in the guest's namespace");
        // The host had to ask for the server, and for nobody of the slot.
        assert!(asked_neighbours().unwrap() <= 1, "on the host");
    });
}

#[test]
fn one_guest_that_floods_a_server_leaves_the_others_their_flows_to_it() {
    on_host(WIDE, 2, async |host, guests| {
        let server = host.server();
        let (attacker, victim) = (&guests[0].1, &guests[1].1);
        for port in 1000..=u16::MAX {
            attacker.send_udp(GUEST_ADDR, port, DNS_PORT);
        }
        let after_flood = tracked_flows();
        assert!((1..=384).contains(&after_flood), "{after_flood} flows of one guest to one port");
        // Its packets would be in the way of the victim's in the server's buffer.
        server.set_nonblocking(true).expect("a socket need not wait");
        while server.recv_from(&mut [0; 16]).is_ok() {}
        server.set_nonblocking(false).expect("a socket may wait");
        server.set_read_timeout(Some(Duration::from_millis(50))).expect("any time is allowed");
        // Each slot has a range of ports of its own; the victim's is the second after the first.
        let (flows, mut arrived, victims) = (50, BTreeSet::new(), 16_384 + 2 * 384..16_384 + 3 * 384);
        let begun = Instant::now();
        while arrived.len() < flows.into() {
            assert!(begun.elapsed() < ARRIVAL_MAX, "{} of {flows} flows of the victim arrive", arrived.len());
            for port in 1000..1000 + flows {
                victim.send_udp(GUEST_ADDR, port, DNS_PORT);
            }
            while let Ok((_, from)) = server.recv_from(&mut [0; 16]) {
                arrived.extend(Some(from.port()).filter(|port| victims.contains(port)));
            }
        }
        host.networks.take_apart(1).await.expect("the attacker's slot comes apart");
        assert_eq!(tracked_flows(), u32::from(flows), "flows that the host tracks without the attacker");
    });
}

#[test]
fn a_guest_has_no_more_flows_than_its_share_whoever_they_lead_to() {
    const FLOWS: u32 = 100;
    on_host(Bounds { flows: FLOWS, ..WIDE }, 1, async |_, guests| {
        let (slot, guest) = &guests[0];
        let flood = |from| (1..=5000).for_each(|to| guest.send_udp(GUEST_ADDR, from, to));
        flood(1000);
        assert_eq!(tracked_flows(), FLOWS, "on the host");
        assert_eq!(slot.netns.run(|| Ok(tracked_flows())).unwrap(), FLOWS, "in the guest's namespace");
        // The host may remember a flow for longer than the namespace does.
        slot.netns.run(|| Conntrack::here()?.delete_marked(0)).expect("flows can be forgotten");
        flood(1001);
        assert_eq!(tracked_flows(), FLOWS, "on the host, of flows that the namespace knows no more");
    });
}

#[test]
fn a_guest_that_floods_or_speaks_as_another_is_cut_at_its_cable() {
    let bounds = Bounds { packets_per_second: 1000, ..WIDE };
    on_host(bounds, 1, async |_, guests| {
        let (slot, guest) = &guests[0];
        let sent = || {
            let text =
                slot.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("devices are listed");
            let line = text.lines().find_map(|line| line.trim().strip_prefix("up0:").map(str::to_owned));
            let fields: Vec<u64> = line.iter().flat_map(|line| line.split_whitespace()).flat_map(str::parse).collect();
            fields[9]
        };
        for _ in 0..20 {
            guest.send_udp(Ipv4Addr::new(169, 254, 0, 20), 1000, DNS_PORT);
            guest.send_udp(SERVER, 1000, DNS_PORT);
        }
        assert_eq!(sent(), 0, "packets of others");
        let begun = Instant::now();
        for _ in 0..20_000 {
            guest.send_udp(GUEST_ADDR, 1000, DNS_PORT);
        }
        let (sent, allowed) = (sent(), 250.0 + 1000.0 * begun.elapsed().as_secs_f64());
        assert!(sent > 100 && (sent as f64) <= allowed, "{sent} packets, {allowed} allowed");
    });
}
