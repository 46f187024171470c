//! Limits of this process: room for the descriptors its pools need, and no image of its memory for anybody.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use wrenn_domain::limits::{DESCRIPTORS_KEPT, PROXY_TUNNELS_MAX};

use crate::config::Config;

/// Keeps the memory of this process, which holds secrets, out of core files and from other processes of its user.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn protect_memory() -> anyhow::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Raises the soft limit as far as the pools of this configuration need.
///
/// # Errors
/// When the hard limit is below that, or the limit cannot be raised.
pub(crate) fn ensure(config: &Config) -> anyhow::Result<()> {
    let needed = needed(config.connections, config.database_connections as usize) as u64;
    let limit = getrlimit(Resource::Nofile);
    // None is no limit.
    if limit.maximum.is_some_and(|hard| hard < needed) {
        anyhow::bail!(
            "this process may open {} files, and {needed} are needed for WRENN_CP_CONNECTIONS={} and their tunnels; \
             raise the hard limit (LimitNOFILE= of the service) or lower the setting",
            limit.maximum.unwrap_or(u64::MAX),
            config.connections
        );
    }
    if limit.current.is_some_and(|soft| soft < needed) {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(())
}

fn needed(connections: usize, database: usize) -> usize {
    connections + PROXY_TUNNELS_MAX + database + DESCRIPTORS_KEPT
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_limit_has_room_for_the_pools_or_the_start_is_refused() {
        let with = |connections: &str| {
            let values = BTreeMap::from([("WRENN_CP_CONNECTIONS".to_owned(), connections.to_owned())]);
            Config::parse(&values).expect("valid")
        };
        let small = with("64");
        ensure(&small).expect("there is room");
        let soft = getrlimit(Resource::Nofile).current;
        assert!(soft.is_none_or(|soft| soft >= needed(64, small.database_connections as usize) as u64));
        if getrlimit(Resource::Nofile).maximum.is_some_and(|hard| hard < 1_000_000 + 4096) {
            let refused = ensure(&with("1000000")).expect_err("no room").to_string();
            assert!(refused.contains("WRENN_CP_CONNECTIONS"), "{refused}");
        }
    }
}
