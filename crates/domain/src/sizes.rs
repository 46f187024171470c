//! Sizes of a sandbox, parsed from what a user sent (any integer) into values that cannot be wrong.

use crate::failure::Failure;
use crate::limits::{
    DISK_MIB_MAX, FORK_CHILDREN_MAX, MEMORY_MIB_MAX, MEMORY_MIB_MIN, TIMEOUT_SEC_MAX, TIMEOUT_SEC_MIN, VCPUS_MAX,
};

macro_rules! size {
    ($(#[$doc:meta])* $name:ident, $what:literal, $unit:literal, $min:expr, $max:expr, $default:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// Used when a request names none.
            pub const DEFAULT: Self = Self($default);

            /// Checks the bounds.
            pub fn parse(value: i64) -> Result<Self, Failure> {
                match u32::try_from(value) {
                    Ok(v) if ($min..=$max).contains(&v) => Ok(Self(v)),
                    _ => Err(Failure::invalid(format!(
                        concat!($what, " must be between {} and {}", $unit, "; got {}"), $min, $max, value
                    ))),
                }
            }

            /// Size as a row or a host holds it: any positive number. The bounds judge requests; what was made under other
            /// bounds must stay readable.
            pub fn from_stored(value: i32) -> Option<Self> {
                u32::try_from(value).ok().filter(|v| *v > 0).map(Self)
            }

            /// The number.
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

size!(
    /// Virtual CPUs.
    Vcpus, "vcpus", "", 1u32, VCPUS_MAX, 1
);
size!(
    /// Guest memory, MiB.
    MemoryMib, "memory_mb", " MiB", MEMORY_MIB_MIN, MEMORY_MIB_MAX, 512
);
size!(
    /// Disk the guest sees, MiB. Never smaller than the template's image, which only the host knows.
    DiskMib, "disk_size_mb", " MiB", 64u32, DISK_MIB_MAX, 5120
);
size!(
    /// Children of one fork.
    ForkCount, "count", "", 1u32, FORK_CHILDREN_MAX, 1
);

/// Seconds without activity until a pause; 0 = never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TimeoutSec(u32);

impl TimeoutSec {
    /// No time-out.
    pub const NEVER: Self = Self(0);

    /// 0 and less mean never, 1 to 59 become 60.
    ///
    /// # Errors
    /// When the value is out of its bounds; the text names them.
    pub fn parse(value: i64) -> Result<Self, Failure> {
        if value <= 0 {
            return Ok(Self::NEVER);
        }
        match u32::try_from(value) {
            Ok(v) if v <= TIMEOUT_SEC_MAX => Ok(Self(v.max(TIMEOUT_SEC_MIN))),
            _ => Err(Failure::invalid(format!(
                "timeout_sec must be at most {TIMEOUT_SEC_MAX} seconds (30 days); 0 means never"
            ))),
        }
    }

    /// Time-out as a row holds it; none when it is negative. The bounds judge requests only.
    pub fn from_stored(value: i32) -> Option<Self> {
        u32::try_from(value).ok().map(Self)
    }

    /// Whether there is no time-out.
    pub const fn is_never(self) -> bool {
        self.0 == 0
    }

    /// The number, seconds; 0 = never.
    pub const fn get(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_refused_and_name_the_bounds() {
        for bad in [i64::MIN, -1, 0, 33, i64::from(u32::MAX) + 2, i64::MAX] {
            let refused = Vcpus::parse(bad).expect_err("accepted");
            assert!(refused.message.contains("between 1 and 32"), "{}", refused.message);
        }
        assert!(MemoryMib::parse(127).is_err());
        assert!(DiskMib::parse(-5).is_err());
        assert!(ForkCount::parse(0).is_err() && ForkCount::parse(101).is_err());
        assert_eq!(ForkCount::parse(100).map(ForkCount::get), Ok(100));
        assert_eq!(Vcpus::parse(2).map(Vcpus::get), Ok(2));
    }

    #[test]
    fn short_time_outs_become_a_minute_and_none_means_never() {
        for (asked, got) in [(-3, 0), (0, 0), (1, 60), (59, 60), (60, 60), (61, 61)] {
            assert_eq!(TimeoutSec::parse(asked).map(TimeoutSec::get), Ok(got));
        }
        assert!(TimeoutSec::parse(i64::MAX).is_err());
    }
}
