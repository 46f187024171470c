//! A disk that is soon full.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A tmpfs of this test's own that everybody may write to; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    pub path: PathBuf,
}

impl SmallDisk {
    /// Makes the directory `at`, and mounts it there.
    ///
    /// # Panics
    /// It is there already, or may not be mounted.
    pub fn mount(at: &Path, bytes: usize) -> Self {
        fs::create_dir_all(at).expect("a place");
        let options = format!("size={bytes},mode=777");
        mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("mounts");
        Self { path: at.to_owned() }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.path, MntFlags::MNT_DETACH).expect("unmounts");
    }
}
