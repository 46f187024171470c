//! Encoding of tables as netlink messages. Numbers are the kernel's, from its uapi header linux/netfilter/nf_tables.h.

use std::io;

use super::table::{Chain, FLOW_COUNTER_SIZE, Family, Hook, Rule, Table};
use crate::netfilter::{self, ACK, APPEND, Attributes, CREATE, Head, Messages, REQUEST};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const NEW_SET: u16 = SUBSYSTEM << 8 | 9;

/// Batch is a sequence of messages that the kernel takes or refuses together.
pub struct Batch {
    messages: Messages,
}

impl Batch {
    /// Batch that writes a table, replacing one of the same name.
    pub fn replacing(table: &Table) -> Self {
        let mut batch = Self::new();
        batch.add_table(table.family, &table.name);
        batch.delete_table(table.family, &table.name);
        batch.add_table(table.family, &table.name);
        for (id, counter) in (1..).zip(&table.flow_counters) {
            batch.add_flow_counter(table, id, counter);
        }
        for chain in &table.chains {
            batch.add_chain(table, chain);
            for rule in &chain.rules {
                batch.add_rule(table, chain.name, rule);
            }
        }
        batch
    }

    /// Batch that holds nothing yet.
    pub fn new() -> Self {
        let mut batch = Self { messages: Messages::default() };
        batch.message(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, |_| {});
        batch
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: impl FnOnce(&mut Attributes)) {
        self.messages.add(&Head { kind, flags, family, resource }, body);
    }

    /// Adds a table; one that is there stays.
    pub fn add_table(&mut self, family: Family, name: &str) {
        self.message(NEW_TABLE, REQUEST | CREATE, code(family), 0, |a| a.text(1, name));
    }

    /// Deletes a table with all it holds.
    pub fn delete_table(&mut self, family: Family, name: &str) {
        self.message(DELETE_TABLE, REQUEST, code(family), 0, |a| a.text(1, name));
    }

    /// Adds the set in which a rule counts flows by source address; the packets themselves fill it.
    fn add_flow_counter(&mut self, table: &Table, id: u32, name: &str) {
        const FILLED_BY_RULES: u32 = 0x20;
        const TYPE_IPV4_ADDRESS: u32 = 7;
        self.message(NEW_SET, REQUEST | CREATE, code(table.family), 0, |a| {
            a.text(1, &table.name);
            a.text(2, name);
            a.number(3, FILLED_BY_RULES);
            a.number(4, TYPE_IPV4_ADDRESS);
            a.number(5, 4);
            a.nest(9, |d| d.number(1, FLOW_COUNTER_SIZE));
            a.number(10, id);
        });
    }

    fn add_chain(&mut self, table: &Table, chain: &Chain) {
        let (number, kind) = match chain.hook {
            Hook::Ingress(_) | Hook::Prerouting => (0u32, "filter"),
            Hook::Input => (1, "filter"),
            Hook::Forward => (2, "filter"),
            Hook::Output => (3, "filter"),
            Hook::PostroutingNat => (4, "nat"),
        };
        self.message(NEW_CHAIN, REQUEST | CREATE, code(table.family), 0, |a| {
            a.text(1, &table.name);
            a.text(3, chain.name);
            a.nest(4, |h| {
                h.number(1, number);
                h.number(2, chain.priority.cast_unsigned());
                if let Hook::Ingress(device) = &chain.hook {
                    h.text(3, device);
                }
            });
            a.number(5, chain.policy.code());
            a.text(7, kind);
        });
    }

    fn add_rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        self.message(NEW_RULE, REQUEST | CREATE | APPEND, code(table.family), 0, |a| {
            a.text(1, &table.name);
            a.text(2, chain);
            a.nest(4, |list| {
                for condition in &rule.matches {
                    list.condition(condition);
                }
                list.action(rule.action);
            });
        });
    }

    /// Sends the batch in the calling thread's network namespace and waits for the answer.
    ///
    /// # Errors
    /// The kernel refused it wholly, or did not answer in time.
    pub fn commit(mut self) -> io::Result<()> {
        // The acknowledgement of the end comes last: every error of the batch is read before it.
        self.message(BATCH_END, REQUEST | ACK, 0, SUBSYSTEM, |_| {});
        self.messages.send(&netfilter::open()?)
    }
}

fn code(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Netdev => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::table::{Action, Match, Verdict};
    use super::*;

    const DROP: Action = Action::Verdict(Verdict::Drop);

    fn rules(matches: impl IntoIterator<Item = Match>) -> Vec<Rule> {
        matches.into_iter().map(|one| Rule { matches: vec![one], action: DROP }).collect()
    }

    /// One of every match, hook and action there is.
    fn every_expression() -> [Table; 2] {
        let network = Ipv4Addr::new(10, 77, 0, 0);
        let name = || "tap0".to_owned();
        let mac = [2, 0xfc, 0, 0, 0, 5];
        let flows = || Match::FlowsOfSourceOver { counter: "flows", flows: 100 };
        let matches = [
            Match::In(name()),
            Match::InPrefix("wv".to_owned()),
            Match::Out(name()),
            Match::OutPrefix("wv".to_owned()),
            Match::OutPrefixNot("wv".to_owned()),
            Match::Source(network, 16),
            Match::SourceMasked { mask: Ipv4Addr::new(0, 0, 0, 254), value: Ipv4Addr::new(0, 0, 0, 2) },
            Match::SourceNot(network, 16),
            Match::SourceNot(network, 32),
            Match::Destination(network, 32),
            Match::Ipv6,
            Match::UdpTo(49_984),
            Match::Established,
            Match::New,
            Match::Invalid,
            Match::FlowsOver(100),
            flows(),
            Match::PacketsOver { per_second: 1000, burst: 50 },
            Match::BytesOver { per_second: 1_000_000, burst: 5000 },
        ];
        let ports = Action::MasqueradePorts { first: 16_384, last: 16_767 };
        let mark = Action::MarkFlow { mask: Ipv4Addr::new(0, 0, 255, 255), plus: Ipv4Addr::new(10, 27, 0, 0) };
        let nat = [Action::Masquerade, ports, Action::SourceNat(network)];
        let bare = |action| Rule { matches: Vec::new(), action };
        let chain = |name, hook, rules| Chain { name, hook, priority: -300, policy: Verdict::Accept, rules };
        let links =
            [Match::Ipv4From { mac, address: network }, Match::ArpFrom { mac, address: network, target: network }];
        let inet = Table {
            name: "wrenn".to_owned(),
            family: Family::Inet,
            flow_counters: vec!["flows"],
            chains: vec![
                chain("in", Hook::Prerouting, rules(matches)),
                chain("input", Hook::Input, Vec::new()),
                chain("forward", Hook::Forward, vec![bare(mark)]),
                chain("output", Hook::Output, Vec::new()),
                chain("out", Hook::PostroutingNat, nat.map(bare).into()),
            ],
        };
        let netdev = Table {
            name: "wrenn".to_owned(),
            family: Family::Netdev,
            flow_counters: Vec::new(),
            chains: vec![chain("link", Hook::Ingress(name()), rules(links))],
        };
        [inet, netdev]
    }

    #[test]
    fn every_expression_is_encoded_and_shown_as_reviewed() {
        let tables = every_expression();
        insta::assert_snapshot!("text", tables.each_ref().map(ToString::to_string).concat());
        // One message a line, in hexadecimal digits.
        let mut lines = String::new();
        for table in &tables {
            let batch = Batch::replacing(table).messages.bytes;
            let mut rest = batch.as_slice();
            while let Some(length) = rest.get(..4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()) as usize) {
                lines.extend(rest[..length].iter().map(|byte| format!("{byte:02x}")));
                lines.push('\n');
                rest = &rest[length..];
            }
        }
        insta::assert_snapshot!("messages", lines);
    }
}
