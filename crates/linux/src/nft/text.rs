//! Text of a table, in the words of the `nft` program, for tests and for people.

use std::fmt::{self, Display, Formatter};

use super::table::{Action, Chain, FLOW_COUNTER_SIZE, Family, Hook, Match, Rule, Table, Verdict};

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Inet => "inet",
            Family::Netdev => "netdev",
        };
        writeln!(f, "table {family} {} {{", self.name)?;
        for counter in &self.flow_counters {
            writeln!(f, "\tset {counter} {{\n\t\ttype ipv4_addr; size {FLOW_COUNTER_SIZE}; flags dynamic;\n\t}}")?;
        }
        for chain in &self.chains {
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (kind, hook) = match &self.hook {
            Hook::Ingress(device) => ("filter", &*format!("ingress device \"{device}\"")),
            Hook::Prerouting => ("filter", "prerouting"),
            Hook::Input => ("filter", "input"),
            Hook::Forward => ("filter", "forward"),
            Hook::Output => ("filter", "output"),
            Hook::PostroutingNat => ("nat", "postrouting"),
        };
        writeln!(f, "\tchain {} {{", self.name)?;
        writeln!(f, "\t\ttype {kind} hook {hook} priority {}; policy {};", self.priority, self.policy)?;
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        write!(f, "{}", self.action)
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Accept => "accept",
        })
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(name) => write!(f, "iifname \"{name}\""),
            Self::InPrefix(name) => write!(f, "iifname \"{name}*\""),
            Self::Out(name) => write!(f, "oifname \"{name}\""),
            Self::OutPrefix(name) => write!(f, "oifname \"{name}*\""),
            Self::OutPrefixNot(name) => write!(f, "oifname != \"{name}*\""),
            Self::Source(network, prefix) => write!(f, "ip saddr {network}/{prefix}"),
            Self::SourceMasked { mask, value } => write!(f, "ip saddr & {mask} == {value}"),
            Self::SourceNot(network, prefix) => write!(f, "ip saddr != {network}/{prefix}"),
            Self::Destination(network, prefix) => write!(f, "ip daddr {network}/{prefix}"),
            Self::Ipv6 => f.write_str("meta nfproto ipv6"),
            Self::UdpTo(port) => write!(f, "udp dport {port}"),
            Self::Established => f.write_str("ct state established,related"),
            Self::New => f.write_str("ct state new"),
            Self::Invalid => f.write_str("ct state invalid"),
            Self::FlowsOver(flows) => write!(f, "ct count over {flows}"),
            Self::FlowsOfSourceOver { counter, flows } => {
                write!(f, "add @{counter} {{ ip saddr ct count over {flows} }}")
            }
            Self::PacketsOver { per_second, burst } => {
                write!(f, "limit rate over {per_second}/second burst {burst} packets")
            }
            Self::BytesOver { per_second, burst } => {
                write!(f, "limit rate over {per_second} bytes/second burst {burst} bytes")
            }
            Self::Ipv4From { mac, address } => {
                write!(f, "ether saddr {} ether type ip ip saddr {address}", Mac(mac))
            }
            Self::ArpFrom { mac, address, target } => write!(
                f,
                "ether saddr {mac} ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 \
                 arp saddr ether {mac} arp saddr ip {address} arp daddr ip {target}",
                mac = Mac(mac)
            ),
        }
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::MasqueradePorts { first, last } => write!(f, "masquerade to :{first}-{last}"),
            Self::SourceNat(address) => write!(f, "snat ip to {address}"),
            Self::MarkFlow { mask, plus } => write!(f, "ct mark set ip saddr & {mask} ^ {plus}"),
        }
    }
}

/// Hardware address in the usual writing.
struct Mac<'a>(&'a [u8; 6]);

impl Display for Mac<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
