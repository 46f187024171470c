//! What a guest starts from, and in which VMM.

use std::sync::Arc;

use super::machine::MachineSizes;
use super::pools::Pools;
use super::prestarted_vmms::PrestartedVmm;
use super::warm_vms::WarmVm;
use crate::faults::Point;
use crate::ledger::Ledger;
use crate::storage::{Capture, Image};

/// Source is what a guest starts from.
#[derive(Clone)]
pub enum Source {
    /// A boot from a copy of the image's disk.
    Image(Arc<Image>),
    /// Where another guest was at the instant of this capture.
    Capture(Box<Capture>),
    /// A boot from the sandbox's own disk, which stays.
    Disk,
}

/// StartKind is what a start is for: it decides what may be reused and which steps a test can interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartKind {
    /// A new sandbox.
    Create,
    /// A sandbox that was there before.
    Resume,
    /// A guest that only serves to make a template's memory.
    Template,
}

/// How a guest comes to run.
pub enum Plan {
    /// Boots in a new VMM.
    Boot,
    /// Goes on in a VM that has loaded the source already.
    Warm(WarmVm),
    /// Is loaded into a VMM that was started ahead of time.
    Prestarted(PrestartedVmm),
    /// Is loaded into a new VMM.
    Restore,
}

impl Plan {
    /// Takes from the pools what this start may use.
    pub fn choose(pools: &Pools, source: &Source, kind: StartKind) -> Self {
        let Source::Capture(capture) = source else { return Self::Boot };
        // What was paused has a capture of its own, which nothing was loaded from ahead of time.
        if kind == StartKind::Create
            && let Some(vm) = pools.warm_vms.take(capture)
        {
            return Self::Warm(vm);
        }
        match pools.take_prestarted(&MachineSizes::of(&capture.manifest)) {
            Some(vmm) => Self::Prestarted(vmm),
            None => Self::Restore,
        }
    }
}

/// Steps of a start at which a test may interrupt it.
#[derive(Default)]
pub struct FaultPoints {
    pub linked: Option<Point>,
    pub loaded: Option<Point>,
    pub running: Option<Point>,
    pub initialized: Option<Point>,
    pub noted: Option<Point>,
}

impl StartKind {
    /// Returns the steps of this kind of start at which a test may interrupt it.
    pub fn points(self) -> FaultPoints {
        match self {
            Self::Create => FaultPoints {
                linked: Some(Point::CreateLinked),
                loaded: Some(Point::CreateLoaded),
                running: Some(Point::CreateRunning),
                initialized: Some(Point::CreateInitialized),
                noted: Some(Point::CreateNoted),
            },
            Self::Resume => FaultPoints {
                linked: Some(Point::ResumeLinked),
                loaded: Some(Point::ResumeLoaded),
                running: Some(Point::ResumeRunning),
                initialized: Some(Point::ResumeInitialized),
                noted: Some(Point::ResumeNoted),
            },
            Self::Template => FaultPoints::default(),
        }
    }
}

/// Writes what a guest has from its source into its ledger.
pub fn inherit(ledger: &mut Ledger, source: &Source) {
    let (image, workdir, user) = match source {
        Source::Disk => return,
        Source::Image(image) => {
            ledger.memory_checksum = 0;
            (&image.version, &image.default_workdir, &image.default_user)
        }
        Source::Capture(capture) => {
            let manifest = &capture.manifest;
            let own = std::mem::take(&mut ledger.spec.default_env);
            ledger.spec.default_env = manifest.default_env.clone();
            ledger.spec.default_env.extend(own);
            ledger.spec.vcpus = manifest.vcpus;
            ledger.spec.memory_mib = manifest.memory_mib;
            ledger.memory_checksum = manifest.memory.checksum;
            (&manifest.image, &manifest.default_workdir, &manifest.default_user)
        }
    };
    ledger.image.clone_from(image);
    ledger.workdir.clone_from(workdir);
    if ledger.spec.default_user.is_empty() {
        ledger.spec.default_user.clone_from(user);
    }
}
