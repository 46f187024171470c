//! Plans a slot's names, addresses and rules: values made without touching the host.

use std::net::Ipv4Addr;

use wrenn_contract::guest::{GATEWAY_ADDR, GUEST_ADDR, GUEST_MAC, READY_PORT};
use wrenn_domain::network::NOT_PUBLIC_V4;
use wrenn_linux::nft::Verdict::{Accept, Drop};
use wrenn_linux::nft::{self, Action, Chain, Family, Hook, Match, Rule, Table, Verdict};

/// Name of the guest's tap inside each namespace.
pub const TAP: &str = "tap0";
/// Name of the namespace's end of the link to the host.
pub const UPLINK: &str = "up0";
/// Name of the tables inside each namespace.
const TABLE: &str = "wrenn";
/// Hardware addresses of the two ends of the link to the host, the same for every slot: known, nobody has to be asked for them.
pub const HOST_MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 0x07];
pub const INNER_MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 0x08];

/// Numbers of slots go from 1 to this: two addresses each of a /16.
pub const NUMBER_MAX: u32 = 32_767;

/// Ports of the host by which flows of guests leave it, in ranges of which each slot has one. A power of two; slots of which more are in
/// use at once share theirs with one in 128.
const PORT_RANGES: u16 = 128;
/// Ports of a range, thus the flows of one guest to one port of one server.
const PORTS_PER_RANGE: u16 = 384;
/// Below this are the ports on which hosts usually listen.
const FIRST_PORT: u16 = 16_384;

/// Share of one guest in what the kernel has once for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Each way.
    pub packets_per_second: u32,
    /// Each way.
    pub bytes_per_second: u64,
    /// Flows that are tracked at once.
    pub flows: u32,
}

impl Bounds {
    /// Matches on what is beyond the rates of one direction. A quarter of a second's worth may come at once.
    fn rates(&self) -> [Match; 2] {
        /// A packet that the guest leaves to its network card to cut counts whole.
        const BURST_MIN: u32 = 1 << 18;
        let (packets, bytes) = (self.packets_per_second, self.bytes_per_second);
        let burst = u32::try_from(bytes / 4).unwrap_or(u32::MAX).max(BURST_MIN);
        [Match::PacketsOver { per_second: packets, burst: packets / 4 }, Match::BytesOver { per_second: bytes, burst }]
    }
}

/// Destinations that guests may reach beyond public addresses.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    pub allow: Vec<(Ipv4Addr, u8)>,
}

/// Names and addresses of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub namespace: String,
    /// The host's end of the link; at most 15 bytes.
    pub host_link: String,
    pub host_address: Ipv4Addr,
    pub inner_address: Ipv4Addr,
}

impl Names {
    /// Names slot `number` (1 to [`NUMBER_MAX`]) of an instance whose /16 begins at `network`.
    pub fn of(instance: &str, network: Ipv4Addr, number: u32) -> Self {
        let first = u32::from(network) + 2 * number;
        Self {
            namespace: format!("{}{number}", namespace_prefix(instance)),
            host_link: format!("{}{number}", link_prefix(instance)),
            host_address: Ipv4Addr::from(first),
            inner_address: Ipv4Addr::from(first + 1),
        }
    }
}

/// First user id of VMMs. Source: systemd's "Users, Groups, UIDs and GIDs", where 0x7000_0000 to 0x7FFD_FFFF are nobody's.
const VMM_USER_FIRST: u32 = 0x7000_0000;

/// Returns the user of the VMM with slot `number` of the instance whose /16 begins at `network`. Two private /16 never share one:
/// their second byte and the low half of their first tell them apart.
pub fn vmm_user(network: Ipv4Addr, number: u32) -> u32 {
    let range = network.to_bits() >> 16 & 0xfff;
    VMM_USER_FIRST + range * (NUMBER_MAX + 1) + number
}

/// Returns the beginning of every namespace's name of an instance.
pub fn namespace_prefix(instance: &str) -> String {
    format!("wrenn-{instance}-")
}

/// Returns the beginning of every host link's name of an instance.
pub fn link_prefix(instance: &str) -> String {
    format!("wv{instance}")
}

/// Returns the name of an instance's table on the host.
pub fn host_table_name(instance: &str) -> String {
    format!("wrenn_{instance}")
}

/// Returns the mark on the host that every flow of slot `number` carries.
pub fn flow_mark(instance: &str, network: Ipv4Addr, number: u32) -> u32 {
    let source = Names::of(instance, network, number).inner_address;
    nft::flow_mark(source, MARK_OF_SLOT, mark_of_instance(instance))
}

/// Bits of a slot's address that make its mark; the others are the instance's.
const MARK_OF_SLOT: Ipv4Addr = Ipv4Addr::new(0, 0, 255, 255);

fn mark_of_instance(instance: &str) -> Ipv4Addr {
    // An instance's id is four hex digits.
    let id = u32::from_str_radix(instance, 16).unwrap_or_default();
    Ipv4Addr::from(id << 16)
}

fn rule<const N: usize>(matches: [Match; N], verdict: Verdict) -> Rule {
    Rule { matches: matches.into(), action: Action::Verdict(verdict) }
}

fn tap() -> Match {
    Match::In(TAP.to_owned())
}

fn chain(name: &'static str, hook: Hook, priority: i32, policy: Verdict, rules: Vec<Rule>) -> Chain {
    Chain { name, hook, priority, policy, rules }
}

/// Plans the rules on the frames of a guest: it speaks as itself, in IPv4, at a bounded rate, or not at all.
pub fn link_table(bounds: &Bounds) -> Table {
    let (mac, address) = (GUEST_MAC, GUEST_ADDR);
    let [packets, bytes] = bounds.rates();
    let rules = vec![
        // Before the rest, so that nonsense is counted as well.
        rule([packets], Drop),
        rule([bytes], Drop),
        rule([Match::Ipv4From { mac, address }], Accept),
        rule([Match::ArpFrom { mac, address, target: GATEWAY_ADDR }], Accept),
    ];
    Table {
        name: TABLE.to_owned(),
        family: Family::Netdev,
        flow_counters: Vec::new(),
        chains: vec![chain("link", Hook::Ingress(TAP.to_owned()), 0, Drop, rules)],
    }
}

/// Plans the rules on the packets inside a sandbox's namespace.
pub fn sandbox_table(egress: &Egress, bounds: &Bounds) -> Table {
    let uplink = || Match::Out(UPLINK.to_owned());
    let to_world =
        |network: &(Ipv4Addr, u8), verdict| rule([tap(), uplink(), Match::Destination(network.0, network.1)], verdict);
    let to_guest = |over| rule([Match::In(UPLINK.to_owned()), over], Drop);
    let [packets, bytes] = bounds.rates();
    // What belongs to no flow is not translated and would leave under the guest's own address.
    let mut forward = vec![to_guest(packets), to_guest(bytes), rule([Match::Invalid], Drop)];
    forward.push(rule([Match::Established], Accept));
    forward.push(rule([tap(), Match::FlowsOver(bounds.flows)], Drop));
    forward.extend(egress.allow.iter().map(|network| to_world(network, Accept)));
    forward.extend(NOT_PUBLIC_V4.iter().map(|network| to_world(network, Drop)));
    forward.push(to_world(&(Ipv4Addr::UNSPECIFIED, 0), Accept));
    let input = vec![rule([Match::Established], Accept), rule([tap(), Match::UdpTo(READY_PORT)], Accept)];
    let outward = vec![Rule { matches: vec![uplink()], action: Action::Masquerade }];
    Table {
        name: TABLE.to_owned(),
        family: Family::Inet,
        flow_counters: Vec::new(),
        chains: vec![
            chain("input", Hook::Input, 0, Drop, input),
            chain("forward", Hook::Forward, 0, Drop, forward),
            chain("outward", Hook::PostroutingNat, 100, Accept, outward),
        ],
    }
}

/// Plans the rules of one instance on the host: sandboxes reach neither the host nor each other, and leave under its address, each with
/// a bounded number of flows and ports of its own.
pub fn host_table(instance: &str, network: Ipv4Addr, bounds: &Bounds) -> Table {
    const FLOWS: &str = "flows";
    // Any instance's links begin so: sandboxes of two agents on one machine are strangers as well.
    let any = "wv".to_owned();
    let ours = || Match::InPrefix(link_prefix(instance));
    let over = Match::FlowsOfSourceOver { counter: FLOWS, flows: bounds.flows };
    let mark = Action::MarkFlow { mask: MARK_OF_SLOT, plus: mark_of_instance(instance) };
    let forward = vec![
        rule([ours(), Match::Ipv6], Drop),
        rule([ours(), Match::SourceNot(network, 16)], Drop),
        rule([ours(), Match::OutPrefix(any.clone())], Drop),
        rule([ours(), Match::New, over], Drop),
        Rule { matches: vec![ours(), Match::New], action: mark },
    ];
    let outward = (0..PORT_RANGES).map(|range| {
        let slots = port_range_slots(range);
        Rule {
            matches: vec![slots, Match::Source(network, 16), Match::OutPrefixNot(any.clone())],
            action: ports(range),
        }
    });
    Table {
        name: host_table_name(instance),
        family: Family::Inet,
        flow_counters: vec![FLOWS],
        chains: vec![
            chain("input", Hook::Input, -10, Accept, vec![rule([ours()], Drop)]),
            chain("forward", Hook::Forward, -10, Accept, forward),
            chain("outward", Hook::PostroutingNat, 100, Accept, outward.collect()),
        ],
    }
}

/// Matches the slots whose flows leave the host by ports of range `range`: their numbers are equal to it in the lowest bits, which
/// stand in their inner address above the bit that tells its two ends apart.
fn port_range_slots(range: u16) -> Match {
    let in_address = |bits: u16| Ipv4Addr::from(u32::from(bits) << 1);
    Match::SourceMasked { mask: in_address(PORT_RANGES - 1), value: in_address(range) }
}

fn ports(range: u16) -> Action {
    let first = FIRST_PORT + range * PORTS_PER_RANGE;
    Action::MasqueradePorts { first, last: first + (PORTS_PER_RANGE - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_of_every_private_range_has_a_user_of_its_own() {
        let tens = (0..=255).map(|second| [10, second]);
        let ranges = tens.chain((16..32).map(|second| [172, second])).chain((64..128).map(|second| [100, second]));
        let ranges = ranges.chain([[192, 168]]);
        let mut spans: Vec<(u32, u32)> = ranges
            .map(|[first, second]| Ipv4Addr::new(first, second, 0, 0))
            .map(|network| (vmm_user(network, 1), vmm_user(network, NUMBER_MAX)))
            .collect();
        spans.sort_unstable();
        assert!(spans.windows(2).all(|pair| pair[0].1 < pair[1].0));
        assert!(spans[0].0 >= 0x7000_0000 && spans[spans.len() - 1].1 < 0x7ffe_0000);
    }

    const BOUNDS: Bounds = Bounds { packets_per_second: 100_000, bytes_per_second: 250_000_000, flows: 2048 };

    #[test]
    fn rules_are_as_reviewed() {
        let egress = Egress { allow: vec![(Ipv4Addr::new(192, 168, 1, 0), 24)] };
        let inside = [link_table(&BOUNDS), sandbox_table(&egress, &BOUNDS)].map(|table| table.to_string()).concat();
        insta::assert_snapshot!("sandbox", inside);
        insta::assert_snapshot!("host", host_table("0a1b", Ipv4Addr::new(10, 77, 0, 0), &BOUNDS).to_string());
    }

    #[test]
    fn marks_differ_between_slots_and_instances() {
        let network = Ipv4Addr::new(10, 77, 0, 0);
        let marks = ["0a1b", "0a1c"].map(|id| [1, 2, NUMBER_MAX].map(|number| flow_mark(id, network, number)));
        let distinct: std::collections::BTreeSet<u32> = marks.into_iter().flatten().collect();
        assert_eq!(distinct.len(), 6);
    }

    #[test]
    fn port_ranges_end_with_the_last_port() {
        let Action::MasqueradePorts { last, .. } = ports(PORT_RANGES - 1) else { panic!("ports are masqueraded") };
        assert_eq!(last, u16::MAX);
    }

    #[test]
    fn names_fit_the_kernel_and_addresses_stay_in_their_range() {
        let names = Names::of("0a1b", Ipv4Addr::new(10, 77, 0, 0), 32_767);
        assert!(names.host_link.len() <= 15, "{}", names.host_link);
        assert_eq!(names.host_address, Ipv4Addr::new(10, 77, 255, 254));
        assert_eq!(names.inner_address, Ipv4Addr::new(10, 77, 255, 255));
    }

    #[test]
    fn what_is_allowed_is_asked_before_what_is_denied() {
        let egress = Egress { allow: vec![(Ipv4Addr::new(10, 9, 0, 0), 16)] };
        let table = sandbox_table(&egress, &BOUNDS);
        let forward = table.chains.iter().find(|c| c.name == "forward").unwrap();
        let at = |network: Ipv4Addr| {
            forward
                .rules
                .iter()
                .position(|r| r.matches.iter().any(|m| matches!(m, Match::Destination(n, _) if *n == network)))
                .unwrap()
        };
        assert!(at(Ipv4Addr::new(10, 9, 0, 0)) < at(Ipv4Addr::new(10, 0, 0, 0)));
        assert_eq!(forward.policy, Verdict::Drop);
    }
}
