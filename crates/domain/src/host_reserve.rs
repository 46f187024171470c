//! Memory of a host that is never promised to sandboxes: one rule for the scheduler, which places them, and the agent, which
//! admits them. Where the two differ, a create is accepted by one and refused by the other.

/// Least MiB kept back on any host: the kernel, the agent and a few VMs started ahead of time need them also on a small one.
const MIN_MIB: u64 = 1024;
/// One part in this many is kept back on a large host, where what each VMM needs beside its guest adds up: some 40 MiB for a guest of
/// 512 MiB, which is 8 %.
const ONE_IN: u64 = 10;

/// Returns the MiB of guest memory that a host with `total_mib` of memory can promise in all; 0 for a host below 1 GiB.
///
/// Of 2 GiB it leaves one half, of 512 GiB nine tenths. It grows with `total_mib` and never exceeds it.
pub const fn memory_for_guests_mib(total_mib: u64) -> u64 {
    let share = total_mib / ONE_IN;
    total_mib.saturating_sub(if share > MIN_MIB { share } else { MIN_MIB })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_hosts_keep_a_gibibyte_and_large_ones_a_tenth() {
        for (total, guests) in [
            (0, 0),
            (1000, 0),
            (2048, 1024),
            (8 * 1024, 7 * 1024),
            (16 * 1024, 14_746),
            (512 * 1024, 471_860),
            (u64::MAX, u64::MAX - u64::MAX / 10),
        ] {
            assert_eq!(memory_for_guests_mib(total), guests, "{total} MiB");
        }
    }

    #[test]
    fn more_memory_never_means_less_for_guests() {
        let all: Vec<u64> = (0..64 * 1024).map(memory_for_guests_mib).collect();
        assert!(all.is_sorted_by(|one, next| one <= next));
    }
}
