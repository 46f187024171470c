//! Tables as values: made and compared without touching the kernel.

use std::net::Ipv4Addr;

/// Sources that a flow counter has room for: a /16.
pub(super) const FLOW_COUNTER_SIZE: u32 = 65_536;

/// Table is a table with all it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub family: Family,
    /// Sets in which rules count flows by source address.
    pub flow_counters: Vec<&'static str>,
    pub chains: Vec<Chain>,
}

/// Family is the kind of packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// Every frame of an interface.
    Netdev,
}

/// Chain is a base chain with its rules, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    pub hook: Hook,
    /// Lower runs first.
    pub priority: i32,
    /// Verdict on a packet that no rule decides.
    pub policy: Verdict,
    pub rules: Vec<Rule>,
}

/// Hook is where a chain sees packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// Arrival at the interface of this name, before anything else; of family netdev only.
    Ingress(String),
    Prerouting,
    Input,
    Forward,
    Output,
    /// A chain of type nat after routing.
    PostroutingNat,
}

/// Verdict ends a packet's way through a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Accept,
}

/// Rule takes its action when all of its matches hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub action: Action,
}

/// Match is a condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Came in by the interface of this name.
    In(String),
    /// Came in by an interface whose name begins so.
    InPrefix(String),
    /// Goes out by the interface of this name.
    Out(String),
    /// Goes out by an interface whose name begins so.
    OutPrefix(String),
    /// Goes out by an interface whose name does not begin so.
    OutPrefixNot(String),
    /// IPv4, source within.
    Source(Ipv4Addr, u8),
    /// IPv4, source equal to `value` in the bits of `mask`.
    SourceMasked { mask: Ipv4Addr, value: Ipv4Addr },
    /// IPv4, source not within.
    SourceNot(Ipv4Addr, u8),
    /// IPv4, destination within.
    Destination(Ipv4Addr, u8),
    /// IPv6 of any kind.
    Ipv6,
    /// UDP to this port.
    UdpTo(u16),
    /// Belongs to a flow that was let through before.
    Established,
    /// Begins a flow.
    New,
    /// Belongs to no flow and begins none.
    Invalid,
    /// More than this many flows came by this rule and still live.
    FlowsOver(u32),
    /// More than this many flows of the packet's IPv4 source came by this rule and still live.
    FlowsOfSourceOver { counter: &'static str, flows: u32 },
    /// More packets than this came by this rule.
    PacketsOver { per_second: u32, burst: u32 },
    /// More bytes than this came by this rule.
    BytesOver { per_second: u64, burst: u32 },
    /// A frame with IPv4 in it, both from these addresses; of family netdev only.
    Ipv4From { mac: [u8; 6], address: Ipv4Addr },
    /// A frame with ARP in it, both from these addresses, about `target`; of family netdev only.
    ArpFrom { mac: [u8; 6], address: Ipv4Addr, target: Ipv4Addr },
}

/// Action is what is done with a packet that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Verdict(Verdict),
    /// Source becomes the address of the interface it leaves by.
    Masquerade,
    /// Source becomes the address of the interface it leaves by, with a port within.
    MasqueradePorts {
        first: u16,
        last: u16,
    },
    /// Source becomes this address.
    SourceNat(Ipv4Addr),
    /// The flow's mark becomes the IPv4 source's bits of `mask`, with the bits of `plus` turned; see [`flow_mark`]. Rules go on.
    MarkFlow {
        mask: Ipv4Addr,
        plus: Ipv4Addr,
    },
}

/// Returns the mark that [`Action::MarkFlow`] gives a flow from `source`.
pub fn flow_mark(source: Ipv4Addr, mask: Ipv4Addr, plus: Ipv4Addr) -> u32 {
    // The kernel takes the bytes of the packet as a number of its own byte order.
    u32::from_ne_bytes(((u32::from(source) & u32::from(mask)) ^ u32::from(plus)).to_be_bytes())
}
