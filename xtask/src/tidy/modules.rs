//! Who may call whom inside the two large crates, read from their `crate::` paths.

use super::{Problem, Source};

/// Room, then the rooms of the same crate it must never name.
const CONTROL: [(&str, &[&str]); 7] = [
    ("service", &["rest", "proxy", "tasks", "jobs"]),
    ("scheduler", &["rest", "proxy", "tasks", "jobs", "service", "fleet"]),
    ("fleet", &["rest", "proxy", "tasks", "jobs", "service"]),
    ("tasks", &["rest", "proxy"]),
    ("jobs", &["rest", "proxy"]),
    ("proxy", &["rest", "tasks", "jobs"]),
    ("rest", &["tasks", "jobs", "fleet", "scheduler"]),
];
const AGENT: [(&str, &[&str]); 5] = [
    ("network", &["rpc", "sandbox", "storage", "guest", "ledger"]),
    ("storage", &["rpc", "sandbox", "network", "guest", "ledger"]),
    ("guest", &["rpc", "sandbox", "network", "storage", "ledger"]),
    ("ledger", &["rpc", "sandbox", "network", "storage", "guest"]),
    ("sandbox", &["rpc"]),
];

/// Checks both crates.
pub fn check(sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (krate, laws) in [("crates/control/src/", CONTROL.as_slice()), ("crates/agent/src/", AGENT.as_slice())] {
        for source in sources {
            let Some(inside) = source.path.strip_prefix(krate) else { continue };
            let room = inside.split(['/', '.']).next().unwrap_or_default();
            let Some((_, never)) = laws.iter().find(|(name, _)| *name == room) else { continue };
            for (number, line) in source.production().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
                for other in never.iter().filter(|other| names_room(line, other)) {
                    let place = format!("{}:{}", source.path, number + 1);
                    problems.push(Problem::new(place, format!("{room} must not know {other}")));
                }
            }
        }
    }
    problems
}

fn names_room(line: &str, room: &str) -> bool {
    line.match_indices("crate::").any(|(at, found)| {
        let rest = &line[at + found.len()..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        name == room
    })
}
