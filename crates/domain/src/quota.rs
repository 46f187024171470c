//! How much a team may use at once, how much it uses, and whether one more sandbox fits.

/// Bounds of a team. Absent means no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Sandboxes at once.
    pub sandboxes_max: Option<u64>,
    /// Sandboxes kept, paused ones included.
    pub kept_max: Option<u64>,
    pub vcpus_max: Option<u64>,
    pub memory_mib_max: Option<u64>,
}

/// Usage of a team at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub sandboxes: u64,
    /// Sandboxes that are not over, paused ones included.
    pub kept: u64,
    pub vcpus: u64,
    pub memory_mib: u64,
}

/// The bound that would be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    Sandboxes { max: u64 },
    Kept { max: u64 },
    Vcpus { max: u64 },
    MemoryMib { max: u64 },
}

impl Limits {
    /// No bound at all.
    pub const NONE: Self = Self { sandboxes_max: None, kept_max: None, vcpus_max: None, memory_mib_max: None };

    /// Bounds of a team for which nobody set any: far above what a person needs, and below what fills a host.
    pub const BUILT_IN: Self = Self {
        sandboxes_max: Some(1000),
        kept_max: Some(2000),
        vcpus_max: Some(4000),
        memory_mib_max: Some(4 * 1024 * 1024),
    };

    /// Whether `more` fits beside `used`.
    ///
    /// # Errors
    /// When the usage would pass a limit; the error says which.
    pub fn admit(&self, used: Usage, more: Usage) -> Result<(), Exceeded> {
        let passed = |used: u64, more: u64, max: Option<u64>| max.filter(|max| used.saturating_add(more) > *max);
        if let Some(max) = passed(used.sandboxes, more.sandboxes, self.sandboxes_max) {
            return Err(Exceeded::Sandboxes { max });
        }
        if let Some(max) = passed(used.kept, more.kept, self.kept_max) {
            return Err(Exceeded::Kept { max });
        }
        if let Some(max) = passed(used.vcpus, more.vcpus, self.vcpus_max) {
            return Err(Exceeded::Vcpus { max });
        }
        match passed(used.memory_mib, more.memory_mib, self.memory_mib_max) {
            Some(max) => Err(Exceeded::MemoryMib { max }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_given_and_the_next_refused() {
        let limits =
            Limits { sandboxes_max: Some(2), kept_max: Some(3), vcpus_max: Some(3), memory_mib_max: Some(1024) };
        let one = Usage { sandboxes: 1, kept: 1, vcpus: 1, memory_mib: 512 };
        assert_eq!(limits.admit(one, one), Ok(()));
        let two = Usage { sandboxes: 2, kept: 2, vcpus: 2, memory_mib: 1024 };
        assert_eq!(limits.admit(two, one), Err(Exceeded::Sandboxes { max: 2 }));
        let paused = Usage { kept: 3, ..one };
        assert_eq!(limits.admit(paused, one), Err(Exceeded::Kept { max: 3 }));
        let big = Usage { vcpus: 3, ..one };
        assert_eq!(limits.admit(one, big), Err(Exceeded::Vcpus { max: 3 }));
        let fat = Usage { memory_mib: 513, ..one };
        assert_eq!(limits.admit(one, fat), Err(Exceeded::MemoryMib { max: 1024 }));
        let vast = Usage { sandboxes: u64::MAX, kept: u64::MAX, vcpus: u64::MAX, memory_mib: u64::MAX };
        assert_eq!(Limits::NONE.admit(vast, vast), Ok(()));
        assert!(limits.admit(vast, vast).is_err(), "no overflow lets anybody in");
    }
}
