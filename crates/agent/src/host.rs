//! What this host has, asked of its kernel.

/// MiB of memory.
pub fn memory_total_mib() -> u64 {
    memory_mib("MemTotal:")
}

/// MiB of memory that could be had without taking it from anybody.
pub fn memory_available_mib() -> u64 {
    memory_mib("MemAvailable:")
}

fn memory_mib(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let rest = text.lines().find_map(|candidate| candidate.strip_prefix(line));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}
