//! Frequency of the processor's time stamp counter.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// Long enough that a preemption at either end costs less than the guest kernel's own tolerance (500 ppm).
const SPAN: Duration = Duration::from_millis(100);
/// A span in which nothing interrupted one of the paired readings is found within a few tries.
const TRIES: usize = 5;

/// kHz, measured against the monotonic clock; takes a tenth of a second.
#[cfg(target_arch = "x86_64")]
pub fn measure_khz() -> u64 {
    let pair = || {
        // The reading with the least time around it: an interrupt between clock and counter would bend the result.
        (0..TRIES * 4)
            .map(|_| {
                let before = Instant::now();
                // SAFETY: rdtsc only reads a register and exists on every x86-64 processor.
                let ticks = unsafe { core::arch::x86_64::_rdtsc() };
                (before.elapsed(), before, ticks)
            })
            .min_by_key(|(gap, ..)| *gap)
            .map_or_else(|| (Instant::now(), 0), |(_, at, ticks)| (at, ticks))
    };
    let (begin, first) = pair();
    std::thread::sleep(SPAN);
    let (end, last) = pair();
    let nanos = end.duration_since(begin).as_nanos().max(1);
    u64::try_from(u128::from(last.saturating_sub(first)) * 1_000_000 / nanos).unwrap_or(0)
}
