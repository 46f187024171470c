//! Which host takes a sandbox. Pure: loads in, choice out.
//!
//! The host with the largest free share of its scarcest resource wins; the oldest on ties. One whose answer is overdue comes after
//! all that answer: it is taken only when it alone is left, because it may just be starting anew.

use wrenn_domain::host_reserve::memory_for_guests_mib;
use wrenn_domain::ids::HostId;
use wrenn_domain::limits::{HOST_DISK_RESERVE_BYTES, SANDBOXES_PER_HOST_MAX};
use wrenn_domain::names::TemplateName;
use wrenn_domain::sizes::{DiskMib, MemoryMib, Vcpus};
use wrenn_store::pg::HostLoad;

/// Which hosts have what a sandbox is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Hosts that hold the template's image.
    Image,
    /// The one that holds the snapshot, or the sandbox to be forked.
    OnHost(HostId),
    /// The one it is on already, disk and all.
    Itself,
}

/// Needs of a sandbox at its host.
#[derive(Debug, Clone)]
pub struct Need {
    pub template: TemplateName,
    pub source: Source,
    pub vcpus: Vcpus,
    pub memory: MemoryMib,
    pub disk: DiskMib,
    /// How often a host's disk may be promised.
    pub disk_overcommit: u64,
}

/// vCPUs promised per core at most: guests are idle most of the time.
const VCPUS_PER_CORE: u64 = 16;
/// vCPUs of one sandbox per core of its host: more only makes its own threads fight.
const VCPUS_PER_CORE_OF_ONE: u64 = 4;

/// Why a host, or every host, is out of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shortage {
    NoHost,
    Template,
    Vcpus,
    Disk,
    Slots,
    Memory,
}

/// The best host, or the reason that came nearest to a place.
pub(super) fn choose<'a>(loads: &'a [HostLoad], need: &Need) -> Result<&'a HostLoad, Shortage> {
    let mut nearest = Shortage::NoHost;
    let mut best: Option<((bool, f64), &HostLoad)> = None;
    for load in loads {
        match fits(load, need) {
            Ok(score) => {
                let rank = (!load.is_overdue, score);
                if best.is_none_or(|(top, _)| rank > top) {
                    best = Some((rank, load));
                }
            }
            Err(why) => nearest = nearest.max(why),
        }
    }
    best.map(|(_, load)| load).ok_or(nearest)
}

/// Whether a host could hold it if nothing else were there.
pub(super) fn could_ever_fit(load: &HostLoad, need: &Need) -> bool {
    u64::from(need.vcpus.get()) <= u64::from(load.cpu_cores) * VCPUS_PER_CORE_OF_ONE
        && u64::from(need.memory.get()) <= memory_for_guests_mib(load.memory_mib)
        && (need.source == Source::Itself || u64::from(need.disk.get()) <= load.disk_total_mib)
}

/// How well a host would stand after taking it (share free of the scarcest), or why it cannot.
pub(super) fn fits(load: &HostLoad, need: &Need) -> Result<f64, Shortage> {
    let holds_it = match need.source {
        Source::Image => load.templates.contains(&need.template),
        Source::OnHost(host) => load.host == host,
        Source::Itself => true,
    };
    if !holds_it {
        return Err(Shortage::Template);
    }
    let cores = u64::from(load.cpu_cores);
    let vcpus = u64::from(need.vcpus.get());
    if vcpus > cores * VCPUS_PER_CORE_OF_ONE || load.vcpus + vcpus > cores * VCPUS_PER_CORE {
        return Err(Shortage::Vcpus);
    }
    // One that was there before has its disk and its place.
    if need.source != Source::Itself {
        let disk = u64::from(need.disk.get());
        if disk > load.disk_total_mib || load.disk_free_mib <= HOST_DISK_RESERVE_BYTES / (1024 * 1024) {
            return Err(Shortage::Disk);
        }
        // Disks are sparse: more may be promised than there is, but not without end.
        if load.disk_promised_mib.saturating_add(disk) > load.disk_total_mib.saturating_mul(need.disk_overcommit) {
            return Err(Shortage::Disk);
        }
        if load.sandboxes >= SANDBOXES_PER_HOST_MAX as u64 {
            return Err(Shortage::Slots);
        }
    }
    let memory = memory_for_guests_mib(load.memory_mib);
    let wanted = load.memory_promised_mib + u64::from(need.memory.get());
    if wanted > memory {
        return Err(Shortage::Memory);
    }
    let free = |used: u64, total: u64| if total == 0 { 0.0 } else { 1.0 - used as f64 / total as f64 };
    Ok(free(wanted, memory)
        .min(free(load.vcpus + vcpus, cores * VCPUS_PER_CORE))
        .min(load.disk_free_mib as f64 / load.disk_total_mib.max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn host(number: u128, change: impl FnOnce(&mut HostLoad)) -> HostLoad {
        let mut load = HostLoad {
            host: HostId::from_uuid(Uuid::from_u128(number)),
            address: String::new(),
            cpu_cores: 4,
            memory_mib: 16_384,
            disk_total_mib: 100_000,
            disk_free_mib: 80_000,
            templates: vec!["minimal".parse().expect("valid")],
            sandboxes: 0,
            vcpus: 0,
            memory_promised_mib: 0,
            disk_promised_mib: 0,
            is_overdue: false,
        };
        change(&mut load);
        load
    }

    fn need(memory: i64) -> Need {
        Need {
            template: "minimal".parse().expect("valid"),
            source: Source::Image,
            vcpus: Vcpus::parse(1).expect("valid"),
            memory: MemoryMib::parse(memory).expect("valid"),
            disk: DiskMib::parse(5120).expect("valid"),
            disk_overcommit: 2,
        }
    }

    #[test]
    fn a_disk_is_promised_so_often_and_no_more() {
        let at = |promised: u64| [host(1, |h| h.disk_promised_mib = promised)];
        assert!(choose(&at(200_000 - 5120), &need(512)).is_ok());
        assert_eq!(choose(&at(200_000 - 5119), &need(512)).err(), Some(Shortage::Disk));
        let there = Need { source: Source::Itself, ..need(512) };
        assert!(choose(&at(300_000), &there).is_ok(), "one that was there before has its disk");
    }

    #[test]
    fn the_emptiest_host_wins_and_the_oldest_on_ties() {
        let loads = [host(1, |h| h.memory_promised_mib = 8000), host(2, |_| ()), host(3, |_| ())];
        assert_eq!(choose(&loads, &need(512)).expect("a place").host, loads[1].host);
    }

    #[test]
    fn one_that_is_overdue_is_taken_only_when_it_alone_is_left() {
        let loads = [host(1, |h| h.is_overdue = true), host(2, |h| h.memory_promised_mib = 8000)];
        assert_eq!(choose(&loads, &need(512)).expect("a place").host, loads[1].host);
        assert_eq!(choose(&loads, &need(8000)).expect("a place").host, loads[0].host);
    }

    #[test]
    fn each_shortage_is_told_by_its_name() {
        let check = |change: fn(&mut HostLoad), why: Shortage| {
            assert_eq!(choose(&[host(1, change)], &need(512)).expect_err("refused"), why);
        };
        check(|h| h.templates.clear(), Shortage::Template);
        check(|h| h.cpu_cores = 0, Shortage::Vcpus);
        check(|h| h.disk_free_mib = 100, Shortage::Disk);
        check(|h| h.disk_total_mib = 5000, Shortage::Disk);
        check(|h| h.sandboxes = SANDBOXES_PER_HOST_MAX as u64, Shortage::Slots);
        check(|h| h.memory_promised_mib = 14_500, Shortage::Memory);
        assert_eq!(choose(&[], &need(512)).expect_err("refused"), Shortage::NoHost);
    }

    #[test]
    fn what_is_too_large_for_an_empty_host_never_fits_and_what_waits_for_others_does() {
        let check = |change: fn(&mut HostLoad), fits: bool| {
            assert_eq!(could_ever_fit(&host(1, change), &need(512)), fits);
        };
        check(|_| (), true);
        check(|h| h.memory_promised_mib = h.memory_mib, true);
        check(|h| h.disk_free_mib = 0, true);
        check(|h| h.sandboxes = SANDBOXES_PER_HOST_MAX as u64, true);
        check(|h| h.memory_mib = 1024 + 511, false);
        check(|h| h.cpu_cores = 0, false);
        check(|h| h.disk_total_mib = 5119, false);
    }

    #[test]
    fn what_is_bound_to_a_host_goes_nowhere_else_however_empty_the_others_are() {
        let loads = [host(1, |h| h.memory_promised_mib = 8000), host(2, |_| ())];
        let bound =
            Need { template: "mine".parse().expect("valid"), source: Source::OnHost(loads[0].host), ..need(512) };
        assert_eq!(choose(&loads, &bound).expect("a place").host, loads[0].host);
        assert_eq!(choose(&loads[1..], &bound).expect_err("away"), Shortage::Template);
    }

    #[test]
    fn one_that_is_there_already_needs_memory_but_neither_disk_nor_a_place() {
        let back = Need { source: Source::Itself, ..need(512) };
        let check = |change: fn(&mut HostLoad), why: Option<Shortage>| {
            assert_eq!(fits(&host(1, change), &back).err(), why);
        };
        check(|h| h.disk_free_mib = 100, None);
        check(|h| h.sandboxes = SANDBOXES_PER_HOST_MAX as u64, None);
        check(|h| h.memory_promised_mib = 14_500, Some(Shortage::Memory));
    }

    #[test]
    fn memory_is_never_promised_twice() {
        let load = host(1, |h| h.memory_promised_mib = 14_746 - 512);
        assert!(fits(&load, &need(512)).is_ok());
        assert_eq!(fits(&load, &need(513)), Err(Shortage::Memory));
    }
}
