//! The kernel's counters in /proc.

use std::fs;
use std::io;
use std::path::Path;

/// Bytes of a sector in /proc/diskstats, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;

/// Time all CPUs spent, in the kernel's ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    pub total: u64,
    /// Neither idle nor waiting for a disk.
    pub used: u64,
    pub count: u32,
}

impl Cpu {
    /// Reads the counters.
    ///
    /// # Errors
    /// The kernel's file cannot be read or parsed.
    pub fn read() -> io::Result<Self> {
        fs::read_to_string("/proc/stat").map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        // user nice system idle iowait irq softirq steal; guest time, which follows, is part of user already.
        let all = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
        let times: Vec<u64> = all.map(|time| time.parse().unwrap_or(0)).collect();
        let total = times.iter().sum();
        let idle: u64 = times.iter().skip(3).take(2).sum();
        let count = text.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
        Self { total, used: total - idle, count: u32::try_from(count).unwrap_or(u32::MAX).max(1) }
    }
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    /// Memory that programs could still get without swapping.
    pub available: u64,
}

impl Memory {
    /// Reads the counters.
    ///
    /// # Errors
    /// The kernel's file cannot be read or parsed.
    pub fn read() -> io::Result<Self> {
        fs::read_to_string("/proc/meminfo").map(|text| Self::parse(&text))
    }

    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }

    fn parse(text: &str) -> Self {
        let kib = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Self { total: kib("MemTotal") * 1024, available: kib("MemAvailable") * 1024 }
    }
}

/// Bytes received and sent since the boot over all interfaces but lo.
///
/// # Errors
/// The kernel's file cannot be read or parsed.
pub fn network_bytes() -> io::Result<u64> {
    fs::read_to_string("/proc/net/dev").map(|text| parse_network(&text))
}

fn parse_network(text: &str) -> u64 {
    let interfaces = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let bytes = interfaces.map(|(_, counters)| {
        let mut counters = counters.split_whitespace().map(|number| number.parse().unwrap_or(0u64));
        // Eight counters of receiving stand before those of sending; bytes come first in both.
        counters.next().unwrap_or(0).wrapping_add(counters.nth(7).unwrap_or(0))
    });
    bytes.fold(0, u64::wrapping_add)
}

/// Bytes read and written since the boot over all disks.
///
/// # Errors
/// The kernel's file cannot be read or parsed.
pub fn disk_bytes() -> io::Result<u64> {
    let is_disk = |name: &str| Path::new("/sys/block").join(name).exists();
    fs::read_to_string("/proc/diskstats").map(|text| parse_disks(&text, is_disk))
}

/// Only whole disks: a partition's traffic is its disk's, and that of mapped, loop and memory disks is another's or
/// none.
fn parse_disks(text: &str, is_disk: impl Fn(&str) -> bool) -> u64 {
    let bytes = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.nth(2)?;
        let mapped = ["loop", "ram", "zram", "dm-", "md"].iter().any(|kind| name.starts_with(kind));
        if mapped || !is_disk(name) {
            return None;
        }
        let mut sectors = fields.map(|number| number.parse().unwrap_or(0u64));
        // reads, merged, sectors read, ms; writes, merged, sectors written.
        let (read, written) = (sectors.nth(2)?, sectors.nth(3)?);
        Some(read.wrapping_add(written).wrapping_mul(SECTOR_BYTES))
    });
    bytes.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_right_columns() {
        let stat = "cpu  10 1 20 300 40 2 3 4 5 6\ncpu0 1 2\ncpu1 1 2\nintr 5\nctxt 1\n";
        assert_eq!(Cpu::parse(stat), Cpu { total: 380, used: 40, count: 2 });
        let memory = Memory::parse("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n");
        assert_eq!((memory.total, memory.used()), (1_024_000, 614_400));
        let network = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n\
                       eth0:100 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n  eth1: 3 0 0 0 0 0 0 0 4 0 0 0 0 0 0 0\n";
        assert_eq!(parse_network(network), 127);
        let disks = " 254 0 vda 5 0 10 1 6 0 20 1 0 0 0\n 254 1 vda1 5 0 10 1 6 0 20 1 0 0 0\n\
                     7 0 loop0 5 0 99 1 6 0 99 1 0 0 0\n";
        assert_eq!(parse_disks(disks, |name| name != "vda1"), 30 * 512);
    }

    #[test]
    fn this_machines_own_counters_make_sense() {
        let (cpu, memory) = (Cpu::read().unwrap(), Memory::read().unwrap());
        assert!(cpu.used > 0 && cpu.used < cpu.total && cpu.count >= 1);
        assert!(memory.available > 0 && memory.available < memory.total);
    }
}
