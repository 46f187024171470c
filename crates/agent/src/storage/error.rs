//! Failures of steps with files.

use std::io;
use std::path::{Path, PathBuf};

use wrenn_linux::tool::ToolError;

/// StorageError is the failure of a step with files.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("could not {act} {}", path.display())]
    File { act: &'static str, path: PathBuf, source: io::Error },
    #[error("could not make a file system")]
    Tool(#[from] ToolError),
    #[error("mkfs.xfs is not installed (Debian package xfsprogs), and {} cannot share blocks between files", dir.display())]
    NoXfs { dir: PathBuf },
    #[error(
        "the host's disk is full: {free_mib} MiB are free and {reserve_mib} MiB are kept for running sandboxes; free some space on the host or delete capsules"
    )]
    Full { free_mib: u64, reserve_mib: u64 },
    #[error(
        "the store {} shut itself down after an error of its disk, and something still uses it: look into the kernel's log, end the VMs on it, start the agent again",
        .0.display()
    )]
    ShutDown(PathBuf),
    #[error("{} holds no disk", .0.display())]
    NoDisk(PathBuf),
    #[error("there is no template {0} on this host")]
    NoImage(String),
    #[error("there is no snapshot {0} on this host")]
    NoSnapshot(String),
    #[error("the snapshot cannot be used on this host: {0}; start it where it was made, or make a new one")]
    Foreign(String),
    #[error("{} is damaged: its checksum is wrong", .0.display())]
    Damaged(PathBuf),
    #[error("disk_size_mb must be at least {min_mib}, the size of the template's image; {asked_mib} was asked")]
    TooSmall { min_mib: u64, asked_mib: u32 },
}

/// Makes a [`StorageError::File`] of an I/O error.
pub fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::File { act, path, source }
}
