//! nf_tables over netlink: a table with its chains and rules is written as one batch, which the kernel applies wholly or
//! not at all.
//!
//! Owns the encoding of the few expressions Wrenn's rules need. Knows no sandbox. Numbers are the kernel's, from its uapi
//! headers linux/netfilter/nf_tables.h and nfnetlink.h.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
/// Seconds to wait for the kernel's answers; it answers at once or something is badly wrong.
const ANSWER_WAIT_SEC: i64 = 5;

/// Address family of a table: IPv4 and IPv6 together.
const INET: u8 = 1;
const IPV4: u8 = 2;

/// A table as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub chains: Vec<Chain>,
}

/// A base chain with its rules, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    pub hook: Hook,
    /// Lower runs first.
    pub priority: i32,
    /// What happens to a packet no rule decides.
    pub policy: Verdict,
    pub rules: Vec<Rule>,
}

/// Where a chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    /// A chain of type nat after routing.
    PostroutingNat,
}

/// The end of a packet's way through a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Accept,
}

/// All matches must hold for the action to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub action: Action,
}

/// A condition on a packet.
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
    /// Anything but IPv4 with this source.
    SourceNot(Ipv4Addr),
    /// IPv4, destination within.
    Destination(Ipv4Addr, u8),
    /// IPv6 of any kind.
    Ipv6,
    /// UDP to this port.
    UdpTo(u16),
    /// Belongs to a flow that was let through before.
    Established,
}

/// What is done with a packet that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Verdict(Verdict),
    /// Source becomes the address of the interface it leaves by.
    Masquerade,
    /// Source becomes this address.
    SourceNat(Ipv4Addr),
}

/// The kernel refused a batch.
#[derive(Debug, thiserror::Error)]
#[error("could not {act} nf_tables table {table}")]
pub struct NftError {
    act: &'static str,
    table: String,
    source: io::Error,
}

/// Writes the table in the calling thread's network namespace, replacing one of the same name.
pub fn replace(table: &Table) -> Result<(), NftError> {
    let mut batch = Batch::new();
    batch.add_table(&table.name);
    batch.delete_table(&table.name);
    batch.add_table(&table.name);
    for chain in &table.chains {
        batch.add_chain(&table.name, chain);
        for rule in &chain.rules {
            batch.add_rule(&table.name, chain.name, rule);
        }
    }
    batch.commit().map_err(|source| NftError { act: "write", table: table.name.clone(), source })
}

/// Removes the table in the calling thread's network namespace; one that is not there is no error.
pub fn remove(name: &str) -> Result<(), NftError> {
    let mut batch = Batch::new();
    batch.add_table(name);
    batch.delete_table(name);
    batch.commit().map_err(|source| NftError { act: "remove", table: name.to_owned(), source })
}

/// Messages that the kernel takes or refuses together.
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), sequence: 0 };
        batch.message(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, |_| {});
        batch
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: impl FnOnce(&mut Attributes)) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        let mut attributes = Attributes { bytes: &mut self.bytes };
        body(&mut attributes);
        let length = u32::try_from(self.bytes.len() - begin).expect("a batch of rules is far below 4 GiB");
        self.bytes[begin..begin + 4].copy_from_slice(&length.to_ne_bytes());
        self.sequence += 1;
    }

    fn add_table(&mut self, name: &str) {
        self.message(NEW_TABLE, REQUEST | CREATE, INET, 0, |a| a.text(1, name));
    }

    fn delete_table(&mut self, name: &str) {
        self.message(DELETE_TABLE, REQUEST, INET, 0, |a| a.text(1, name));
    }

    fn add_chain(&mut self, table: &str, chain: &Chain) {
        let (hook, kind) = match chain.hook {
            Hook::Prerouting => (0u32, "filter"),
            Hook::Input => (1, "filter"),
            Hook::Forward => (2, "filter"),
            Hook::Output => (3, "filter"),
            Hook::PostroutingNat => (4, "nat"),
        };
        self.message(NEW_CHAIN, REQUEST | CREATE, INET, 0, |a| {
            a.text(1, table);
            a.text(3, chain.name);
            a.nest(4, |h| {
                h.number(1, hook);
                h.number(2, chain.priority.cast_unsigned());
            });
            a.number(5, verdict_code(chain.policy));
            a.text(7, kind);
        });
    }

    fn add_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.message(NEW_RULE, REQUEST | CREATE | APPEND, INET, 0, |a| {
            a.text(1, table);
            a.text(2, chain);
            a.nest(4, |list| {
                for condition in &rule.matches {
                    list.condition(condition);
                }
                list.action(rule.action);
            });
        });
    }

    fn commit(mut self) -> io::Result<()> {
        // The acknowledgement of the end comes last: every error of the batch is read before it.
        self.message(BATCH_END, REQUEST | ACK, 0, SUBSYSTEM, |_| {});
        let last = self.sequence - 1;
        let netlink =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
        bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&netlink, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(ANSWER_WAIT_SEC, 0))?;
        send(netlink.as_raw_fd(), &self.bytes, MsgFlags::empty())?;
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (sequence, code) in answers(&buffer[..length]) {
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(-code));
                }
                if sequence == last {
                    return Ok(());
                }
            }
        }
    }
}

/// Sequence number and error code of every acknowledgement in what the kernel sent.
fn answers(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    const ERROR: u16 = 2;
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let mut found = Vec::new();
    while let (Some(length), Some(sequence)) = (word(bytes, 0), word(bytes, 8)) {
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if let (ERROR, Some(code)) = (kind, word(bytes, 16)) {
            found.push((sequence, code.cast_signed()));
        }
        let step = (length as usize).next_multiple_of(4).max(16);
        bytes = bytes.get(step..).unwrap_or_default();
    }
    found
}

fn verdict_code(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
    }
}

/// Netlink attributes at the end of a message.
struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    fn raw(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attributes of rules are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.raw(kind, &bytes);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Attributes)) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        body(&mut Attributes { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - begin).expect("attributes of rules are short");
        self.bytes[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[begin + 2..begin + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
    }

    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Attributes)) {
        self.nest(1, |e| {
            e.text(1, name);
            e.nest(2, body);
        });
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

    fn mask(&mut self, mask: &[u8]) {
        let length = u32::try_from(mask.len()).expect("a register has 16 bytes");
        self.expression("bitwise", |b| {
            b.number(1, 1);
            b.number(2, 1);
            b.number(3, length);
            b.nest(4, |d| d.raw(1, mask));
            b.nest(5, |d| d.raw(1, &vec![0; mask.len()]));
        });
    }

    fn address(&mut self, offset: u32, network: Ipv4Addr, prefix: u8) {
        const NFPROTO: u32 = 15;
        self.meta(NFPROTO, &[IPV4], true);
        self.payload(1, offset, 4);
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        if mask != u32::MAX {
            self.mask(&mask.to_be_bytes());
        }
        self.compare(&(u32::from(network) & mask).to_be_bytes(), true);
    }

    fn condition(&mut self, condition: &Match) {
        const IN_NAME: u32 = 6;
        const OUT_NAME: u32 = 7;
        const NFPROTO: u32 = 15;
        const L4PROTO: u32 = 16;
        const IPV6: u8 = 10;
        const UDP: u8 = 17;
        match condition {
            Match::In(name) => self.meta(IN_NAME, &whole_name(name), true),
            Match::InPrefix(name) => self.meta(IN_NAME, name.as_bytes(), true),
            Match::Out(name) => self.meta(OUT_NAME, &whole_name(name), true),
            Match::OutPrefix(name) => self.meta(OUT_NAME, name.as_bytes(), true),
            Match::OutPrefixNot(name) => self.meta(OUT_NAME, name.as_bytes(), false),
            Match::Source(network, prefix) => self.address(12, *network, *prefix),
            Match::SourceNot(address) => {
                // IPv6 and others fall to the chain's other rules; offset 12 is only read of IPv4.
                self.meta(NFPROTO, &[IPV4], true);
                self.payload(1, 12, 4);
                self.compare(&address.octets(), false);
            }
            Match::Destination(network, prefix) => self.address(16, *network, *prefix),
            Match::Ipv6 => self.meta(NFPROTO, &[IPV6], true),
            Match::UdpTo(port) => {
                self.meta(L4PROTO, &[UDP], true);
                self.payload(2, 2, 2);
                self.compare(&port.to_be_bytes(), true);
            }
            Match::Established => {
                const ESTABLISHED_OR_RELATED: u32 = 0b110;
                self.expression("ct", |c| {
                    c.number(2, 0);
                    c.number(1, 1);
                });
                self.mask(&ESTABLISHED_OR_RELATED.to_ne_bytes());
                self.compare(&[0; 4], false);
            }
        }
    }

    fn action(&mut self, action: Action) {
        match action {
            Action::Verdict(verdict) => self.expression("immediate", |i| {
                i.number(1, 0);
                i.nest(2, |d| d.nest(2, |v| v.number(1, verdict_code(verdict))));
            }),
            Action::Masquerade => self.expression("masq", |_| {}),
            Action::SourceNat(address) => {
                self.expression("immediate", |i| {
                    i.number(1, 1);
                    i.nest(2, |d| d.raw(1, &address.octets()));
                });
                self.expression("nat", |n| {
                    n.number(1, 0);
                    n.number(2, u32::from(IPV4));
                    n.number(3, 1);
                });
            }
        }
    }
}

/// An interface name as the kernel compares it whole: 16 bytes, padded with zeros.
fn whole_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}
