//! Encoding of matches and actions as the kernel's expressions, which hand values to each other in registers. Numbers are those of its
//! uapi header linux/netfilter/nf_tables.h.

use std::net::Ipv4Addr;

use super::table::{Action, Match, Verdict};
use crate::netfilter::Attributes;

const IPV4: u8 = 2;
const IPV6: u8 = 10;
const UDP: u8 = 17;
/// Key of `meta` for the family of a packet.
const NFPROTO: u32 = 15;
/// Where a payload is counted from.
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Offset in an IPv4 header.
const SOURCE_AT: u32 = 12;
const DESTINATION_AT: u32 = 16;
/// Beginning of an ARP packet: Ethernet, IPv4, addresses of six and of four bytes.
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
const ETHERTYPE_ARP: [u8; 2] = [8, 6];
/// Inverts a limit or a count: it then holds when there is more.
const OVER: u32 = 1;

impl Verdict {
    /// Returns the kernel's number of a verdict.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
        }
    }
}

impl Attributes<'_> {
    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Attributes)) {
        self.nest(1, |e| e.named(name, body));
    }

    fn named(&mut self, name: &str, body: impl FnOnce(&mut Attributes)) {
        self.text(1, name);
        self.nest(2, body);
    }

    /// Loads `meta` into register 1 and compares its beginning with `value`.
    fn meta(&mut self, key: u32, value: &[u8], equal: bool) {
        self.expression("meta", |m| {
            m.number(2, key);
            m.number(1, 1);
        });
        self.compare(value, equal);
    }

    fn compare(&mut self, value: &[u8], equal: bool) {
        self.expression("cmp", |c| {
            c.number(1, 1);
            c.number(2, u32::from(!equal));
            c.nest(3, |d| d.raw(1, value));
        });
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |p| {
            p.number(1, 1);
            p.number(2, base);
            p.number(3, offset);
            p.number(4, length);
        });
    }

    /// Compares bytes of a packet, at most 16, with `value`.
    fn bytes_at(&mut self, base: u32, offset: u32, value: &[u8]) {
        self.payload(base, offset, u32::try_from(value.len()).expect("a register has 16 bytes"));
        self.compare(value, true);
    }

    /// Makes register 1 `(register 1 & mask) ^ plus`.
    fn mask(&mut self, mask: &[u8], plus: &[u8]) {
        let length = u32::try_from(mask.len()).expect("a register has 16 bytes");
        self.expression("bitwise", |b| {
            b.number(1, 1);
            b.number(2, 1);
            b.number(3, length);
            b.nest(4, |d| d.raw(1, mask));
            b.nest(5, |d| d.raw(1, plus));
        });
    }

    fn ipv4_word(&mut self, offset: u32) {
        self.meta(NFPROTO, &[IPV4], true);
        self.payload(NETWORK_HEADER, offset, 4);
    }

    fn address(&mut self, offset: u32, network: Ipv4Addr, prefix: u8, equal: bool) {
        self.ipv4_word(offset);
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        if mask != u32::MAX {
            self.mask(&mask.to_be_bytes(), &[0; 4]);
        }
        self.compare(&(u32::from(network) & mask).to_be_bytes(), equal);
    }

    fn state(&mut self, bits: u32) {
        const STATE: u32 = 0;
        self.expression("ct", |c| {
            c.number(2, STATE);
            c.number(1, 1);
        });
        self.mask(&bits.to_ne_bytes(), &[0; 4]);
        self.compare(&[0; 4], false);
    }

    fn limit(&mut self, per_second: u64, burst: u32, of_bytes: bool) {
        self.expression("limit", |l| {
            l.long_number(1, per_second);
            l.long_number(2, 1);
            l.number(3, burst);
            l.number(4, u32::from(of_bytes));
            l.number(5, OVER);
        });
    }

    /// Encodes a condition.
    pub(super) fn condition(&mut self, condition: &Match) {
        const IN_NAME: u32 = 6;
        const OUT_NAME: u32 = 7;
        const L4PROTO: u32 = 16;
        match condition {
            Match::In(name) => self.meta(IN_NAME, &whole_name(name), true),
            Match::InPrefix(name) => self.meta(IN_NAME, name.as_bytes(), true),
            Match::Out(name) => self.meta(OUT_NAME, &whole_name(name), true),
            Match::OutPrefix(name) => self.meta(OUT_NAME, name.as_bytes(), true),
            Match::OutPrefixNot(name) => self.meta(OUT_NAME, name.as_bytes(), false),
            Match::Source(network, prefix) => self.address(SOURCE_AT, *network, *prefix, true),
            Match::SourceMasked { mask, value } => {
                self.ipv4_word(SOURCE_AT);
                self.mask(&mask.octets(), &[0; 4]);
                self.compare(&value.octets(), true);
            }
            // IPv6 and others fall to the chain's other rules.
            Match::SourceNot(network, prefix) => self.address(SOURCE_AT, *network, *prefix, false),
            Match::Destination(network, prefix) => self.address(DESTINATION_AT, *network, *prefix, true),
            Match::Ipv6 => self.meta(NFPROTO, &[IPV6], true),
            Match::UdpTo(port) => {
                self.meta(L4PROTO, &[UDP], true);
                self.bytes_at(TRANSPORT_HEADER, 2, &port.to_be_bytes());
            }
            Match::Invalid => self.state(0b1),
            Match::Established => self.state(0b110),
            Match::New => self.state(0b1000),
            Match::FlowsOver(flows) => self.expression("connlimit", |c| count_over(c, *flows)),
            Match::FlowsOfSourceOver { counter, flows } => {
                self.ipv4_word(SOURCE_AT);
                self.expression("dynset", |d| {
                    d.text(1, counter);
                    d.number(3, 0);
                    d.number(4, 1);
                    d.nest(7, |e| e.named("connlimit", |c| count_over(c, *flows)));
                });
            }
            Match::PacketsOver { per_second, burst } => self.limit(u64::from(*per_second), *burst, false),
            Match::BytesOver { per_second, burst } => self.limit(*per_second, *burst, true),
            Match::Ipv4From { mac, address } => {
                self.bytes_at(LINK_HEADER, 6, &[mac.as_slice(), &ETHERTYPE_IPV4].concat());
                self.bytes_at(NETWORK_HEADER, SOURCE_AT, &address.octets());
            }
            Match::ArpFrom { mac, address, target } => {
                self.bytes_at(LINK_HEADER, 6, &[mac.as_slice(), &ETHERTYPE_ARP].concat());
                self.bytes_at(NETWORK_HEADER, 0, &ARP_KIND);
                self.bytes_at(NETWORK_HEADER, 8, &[mac.as_slice(), &address.octets()].concat());
                self.bytes_at(NETWORK_HEADER, 24, &target.octets());
            }
        }
    }

    /// Encodes an action.
    pub(super) fn action(&mut self, action: Action) {
        match action {
            Action::Verdict(verdict) => self.expression("immediate", |i| {
                i.number(1, 0);
                i.nest(2, |d| d.nest(2, |v| v.number(1, verdict.code())));
            }),
            Action::Masquerade => self.expression("masq", |_| {}),
            Action::MasqueradePorts { first, last } => {
                const PORTS_GIVEN: u32 = 2;
                self.immediate(1, &first.to_be_bytes());
                self.immediate(2, &last.to_be_bytes());
                self.expression("masq", |m| {
                    m.number(1, PORTS_GIVEN);
                    m.number(2, 1);
                    m.number(3, 2);
                });
            }
            Action::SourceNat(address) => {
                self.immediate(1, &address.octets());
                self.expression("nat", |n| {
                    n.number(1, 0);
                    n.number(2, u32::from(IPV4));
                    n.number(3, 1);
                });
            }
            Action::MarkFlow { mask, plus } => {
                const MARK: u32 = 3;
                self.payload(NETWORK_HEADER, SOURCE_AT, 4);
                self.mask(&mask.octets(), &plus.octets());
                self.expression("ct", |c| {
                    c.number(2, MARK);
                    c.number(4, 1);
                });
            }
        }
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expression("immediate", |i| {
            i.number(1, register);
            i.nest(2, |d| d.raw(1, value));
        });
    }
}

fn count_over(connlimit: &mut Attributes, flows: u32) {
    connlimit.number(1, flows);
    connlimit.number(2, OVER);
}

/// An interface name as the kernel compares it whole: 16 bytes, padded with zeros.
fn whole_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}
