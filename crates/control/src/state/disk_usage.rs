//! How much of their disks sandboxes used when their hosts were asked last.

use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{DISK_USED_AGE_MAX, DISK_USED_ENTRIES_MAX};

use super::cache::TimedCache;

/// MiB used by sandboxes' disks; none where the host did not say it.
pub struct DiskUsage(TimedCache<SandboxId, Option<u32>>);

impl Default for DiskUsage {
    fn default() -> Self {
        Self(TimedCache::new(DISK_USED_AGE_MAX, DISK_USED_ENTRIES_MAX))
    }
}

impl DiskUsage {
    /// Finds the remembered answer, in MiB. None: the caller is to ask the host, and others get what was known before until it did.
    pub(crate) fn get_or_begin(&self, id: SandboxId) -> Option<Option<u32>> {
        self.0.get_or_begin(id, Option::flatten)
    }

    /// Remembers a host's answer, in MiB.
    pub(crate) fn put(&self, id: SandboxId, used_mib: Option<u32>) {
        self.0.put(id, used_mib);
    }
}
