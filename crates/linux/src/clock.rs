//! The system clock: reading and stepping it.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::syscall::SyscallError;

/// Now, in Unix nanoseconds; 0 before 1970.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Sets the system clock to `unix_ns`.
///
/// # Errors
/// Not root, or a negative time.
pub fn step_to(unix_ns: i64) -> Result<(), SyscallError> {
    let time = TimeSpec::new(unix_ns.div_euclid(1_000_000_000), unix_ns.rem_euclid(1_000_000_000));
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(|e| SyscallError::new("set", "the system clock", e))
}
