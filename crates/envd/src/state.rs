//! The state of one envd, made of what each of its rooms owns. Routes and services share it; it calls none of them.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::disk::Disk;
use crate::filesystem::watch::Watchers;
use crate::freezer::{Freezer, Scope};
use crate::identity::Identity;
use crate::init::System;
use crate::process::Processes;
use crate::tunnel::Tunnels;
use crate::usage::Usage;

/// State that all rooms of envd share.
pub struct Envd {
    /// Identity of this sandbox.
    pub identity: Identity,
    /// The machine, or a switched-off one.
    pub system: System,
    /// Processes that run in this sandbox.
    pub processes: Arc<Processes>,
    /// Processes that stand still for a capture.
    pub freezer: Freezer,
    /// Held by the `/init` being applied.
    pub init_turn: Mutex<()>,
    /// Cancelled by the first `/init`: the host has heard of us.
    pub initialised: CancellationToken,
    /// Permits for work on files.
    pub disk: Disk,
    /// Directories being watched.
    pub watchers: Watchers,
    /// Load when it was last asked for.
    pub usage: Arc<Usage>,
    /// Connections to ports of the loopback.
    pub tunnels: Arc<Tunnels>,
}

impl Envd {
    /// An envd nobody has initialised.
    pub fn new(config: &Config) -> Self {
        Self {
            identity: Identity::new(&config.run_dir),
            system: if config.no_system { System::untouched() } else { System::own() },
            processes: Arc::new(Processes::new(&config.cgroup_root, !config.no_system)),
            freezer: Freezer::new(&config.cgroup_root, if config.no_system { Scope::Ours } else { Scope::Machine }),
            init_turn: Mutex::new(()),
            initialised: CancellationToken::new(),
            disk: Disk::default(),
            watchers: Watchers::default(),
            usage: Arc::default(),
            tunnels: Arc::default(),
        }
    }
}
