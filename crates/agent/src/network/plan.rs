//! Names, addresses and rules: values made without touching the host.

use std::net::Ipv4Addr;

use wrenn_contract::guest::{GUEST_ADDR, READY_PORT};
use wrenn_domain::network::NOT_PUBLIC_V4;
use wrenn_linux::nft::{Action, Chain, Hook, Match, Rule, Table, Verdict};

/// The guest's tap inside each namespace.
pub const TAP: &str = "tap0";
/// The namespace's end of the link to the host.
pub const UPLINK: &str = "up0";

/// What guests may reach beyond public addresses.
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
    /// Of slot `number` (1 to 32767) of an instance.
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

/// Beginning of every namespace's name of an instance.
pub fn namespace_prefix(instance: &str) -> String {
    format!("wrenn-{instance}-")
}

/// Beginning of every host link's name of an instance.
pub fn link_prefix(instance: &str) -> String {
    format!("wv{instance}")
}

/// Name of an instance's table on the host.
pub fn host_table_name(instance: &str) -> String {
    format!("wrenn_{instance}")
}

fn rule<const N: usize>(matches: [Match; N], verdict: Verdict) -> Rule {
    Rule { matches: matches.into(), action: Action::Verdict(verdict) }
}

fn tap() -> Match {
    Match::In(TAP.to_owned())
}

/// Rules inside a sandbox's namespace.
pub fn sandbox_table(egress: &Egress) -> Table {
    use Verdict::{Accept, Drop};
    let to_world = |network: &(Ipv4Addr, u8), verdict| {
        rule([tap(), Match::Out(UPLINK.to_owned()), Match::Destination(network.0, network.1)], verdict)
    };
    let mut forward = vec![rule([Match::Established], Accept)];
    forward.extend(egress.allow.iter().map(|network| to_world(network, Accept)));
    forward.extend(NOT_PUBLIC_V4.iter().map(|network| to_world(network, Drop)));
    forward.push(to_world(&(Ipv4Addr::UNSPECIFIED, 0), Accept));
    let chain = |name, hook, priority, policy, rules| Chain { name, hook, priority, policy, rules };
    Table {
        name: "wrenn".to_owned(),
        chains: vec![
            // Before anything else looks: a guest speaks as itself, in IPv4, or not at all.
            chain(
                "source",
                Hook::Prerouting,
                -300,
                Accept,
                vec![rule([tap(), Match::Ipv6], Drop), rule([tap(), Match::SourceNot(GUEST_ADDR)], Drop)],
            ),
            chain(
                "input",
                Hook::Input,
                0,
                Drop,
                vec![rule([Match::Established], Accept), rule([tap(), Match::UdpTo(READY_PORT)], Accept)],
            ),
            chain("forward", Hook::Forward, 0, Drop, forward),
            chain(
                "outward",
                Hook::PostroutingNat,
                100,
                Accept,
                vec![Rule { matches: vec![Match::Out(UPLINK.to_owned())], action: Action::Masquerade }],
            ),
        ],
    }
}

/// Rules of one instance on the host: sandboxes reach neither the host nor each other, and leave under its address.
pub fn host_table(instance: &str, network: Ipv4Addr) -> Table {
    use Verdict::{Accept, Drop};
    // Any instance's links begin so: sandboxes of two agents on one machine are strangers as well.
    let any = "wv".to_owned();
    let ours = link_prefix(instance);
    let chain = |name, hook, priority, rules| Chain { name, hook, priority, policy: Accept, rules };
    Table {
        name: host_table_name(instance),
        chains: vec![
            chain("input", Hook::Input, -10, vec![rule([Match::InPrefix(ours.clone())], Drop)]),
            chain(
                "forward",
                Hook::Forward,
                -10,
                vec![
                    rule([Match::InPrefix(ours.clone()), Match::Ipv6], Drop),
                    rule([Match::InPrefix(ours.clone()), Match::OutPrefix(any.clone())], Drop),
                ],
            ),
            chain(
                "outward",
                Hook::PostroutingNat,
                100,
                vec![Rule {
                    matches: vec![Match::Source(network, 16), Match::OutPrefixNot(any)],
                    action: Action::Masquerade,
                }],
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let table = sandbox_table(&egress);
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
