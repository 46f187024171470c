//! Which host takes a sandbox. Pure: loads in, choice out.
//!
//! The host with the largest free share of its scarcest resource wins; the oldest on ties. One whose answer is overdue comes after
//! all that answer: it is taken only when it alone is left, because it may just be starting anew.

use wrenn_domain::limits::{HOST_DISK_RESERVE_BYTES, SANDBOXES_PER_HOST_MAX};
use wrenn_store::pg::HostLoad;

use super::{Need, Source};

/// vCPUs promised per core at most: guests are idle most of the time.
const VCPUS_PER_CORE: u64 = 16;
/// vCPUs of one sandbox per core of its host: more only makes its own threads fight.
const VCPUS_PER_CORE_OF_ONE: u64 = 4;
/// Share of a host's memory left for the host itself, in percent, and at least this many MiB.
const MEMORY_RESERVE_PERCENT: u64 = 10;
const MEMORY_RESERVE_MIN_MIB: u64 = 512;

/// Why a host, or every host, is out of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NoPlace {
    NoHost,
    Template,
    Vcpus,
    Disk,
    Slots,
    Memory,
}

/// The best host, or the reason that came nearest to a place.
pub(super) fn choose<'a>(loads: &'a [HostLoad], need: &Need) -> Result<&'a HostLoad, NoPlace> {
    let mut nearest = NoPlace::NoHost;
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

/// How well a host would stand after taking it (share free of the scarcest), or why it cannot.
pub(super) fn fits(load: &HostLoad, need: &Need) -> Result<f64, NoPlace> {
    let holds_it = match need.source {
        Source::Image => load.templates.contains(&need.template),
        Source::OnHost(host) => load.host == host,
        Source::Itself => true,
    };
    if !holds_it {
        return Err(NoPlace::Template);
    }
    let cores = u64::from(load.cpu_cores);
    let vcpus = u64::from(need.vcpus.get());
    if vcpus > cores * VCPUS_PER_CORE_OF_ONE || load.vcpus + vcpus > cores * VCPUS_PER_CORE {
        return Err(NoPlace::Vcpus);
    }
    // One that was there before has its disk and its place.
    if need.source != Source::Itself {
        let disk = u64::from(need.disk.get());
        if disk > load.disk_total_mib || load.disk_free_mib <= HOST_DISK_RESERVE_BYTES / (1024 * 1024) {
            return Err(NoPlace::Disk);
        }
        if load.sandboxes >= SANDBOXES_PER_HOST_MAX as u64 {
            return Err(NoPlace::Slots);
        }
    }
    let reserve = (load.memory_mib * MEMORY_RESERVE_PERCENT / 100).max(MEMORY_RESERVE_MIN_MIB);
    let memory = load.memory_mib.saturating_sub(reserve);
    let wanted = load.memory_promised_mib + u64::from(need.memory.get());
    if wanted > memory {
        return Err(NoPlace::Memory);
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
    use wrenn_domain::ids::HostId;
    use wrenn_domain::sizes::{DiskMib, MemoryMib, Vcpus};

    fn host(number: u128, change: impl FnOnce(&mut HostLoad)) -> HostLoad {
        let mut load = HostLoad {
            host: HostId::from_uuid(Uuid::from_u128(number)),
            address: String::new(),
            cpu_cores: 4,
            memory_mib: 16_384,
            disk_total_mib: 100_000,
            disk_free_mib: 80_000,
            templates: vec!["minimal".to_owned()],
            sandboxes: 0,
            vcpus: 0,
            memory_promised_mib: 0,
            is_overdue: false,
        };
        change(&mut load);
        load
    }

    fn need(memory: i64) -> Need {
        Need {
            template: "minimal".to_owned(),
            source: Source::Image,
            vcpus: Vcpus::parse(1).expect("valid"),
            memory: MemoryMib::parse(memory).expect("valid"),
            disk: DiskMib::parse(5120).expect("valid"),
        }
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
        let check = |change: fn(&mut HostLoad), why: NoPlace| {
            assert_eq!(choose(&[host(1, change)], &need(512)).expect_err("refused"), why);
        };
        check(|h| h.templates.clear(), NoPlace::Template);
        check(|h| h.cpu_cores = 0, NoPlace::Vcpus);
        check(|h| h.disk_free_mib = 100, NoPlace::Disk);
        check(|h| h.disk_total_mib = 5000, NoPlace::Disk);
        check(|h| h.sandboxes = SANDBOXES_PER_HOST_MAX as u64, NoPlace::Slots);
        check(|h| h.memory_promised_mib = 14_500, NoPlace::Memory);
        assert_eq!(choose(&[], &need(512)).expect_err("refused"), NoPlace::NoHost);
    }

    #[test]
    fn what_is_bound_to_a_host_goes_nowhere_else_however_empty_the_others_are() {
        let loads = [host(1, |h| h.memory_promised_mib = 8000), host(2, |_| ())];
        let bound = Need { template: "mine".to_owned(), source: Source::OnHost(loads[0].host), ..need(512) };
        assert_eq!(choose(&loads, &bound).expect("a place").host, loads[0].host);
        assert_eq!(choose(&loads[1..], &bound).expect_err("away"), NoPlace::Template);
    }

    #[test]
    fn one_that_is_there_already_needs_memory_but_neither_disk_nor_a_place() {
        let back = Need { source: Source::Itself, ..need(512) };
        let check = |change: fn(&mut HostLoad), why: Option<NoPlace>| {
            assert_eq!(fits(&host(1, change), &back).err(), why);
        };
        check(|h| h.disk_free_mib = 100, None);
        check(|h| h.sandboxes = SANDBOXES_PER_HOST_MAX as u64, None);
        check(|h| h.memory_promised_mib = 14_500, Some(NoPlace::Memory));
    }

    #[test]
    fn memory_is_never_promised_twice() {
        let load = host(1, |h| h.memory_promised_mib = 14_746 - 512);
        assert!(fits(&load, &need(512)).is_ok());
        assert_eq!(fits(&load, &need(513)), Err(NoPlace::Memory));
    }
}
