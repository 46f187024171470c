//! One supervisor per instance: an advisory lock the kernel frees when its holder dies, with the holder's pid inside.

use std::fs::File;
use std::io::{Read, Seek, Write};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

use super::layout::Layout;

/// Held for as long as the supervisor lives.
pub struct Lock {
    _held: Flock<File>,
}

/// Takes the lock, or says who has it.
///
/// # Errors
/// Another supervisor has the lock, or the file cannot be made.
pub fn take(layout: &Layout) -> anyhow::Result<Lock> {
    match Flock::lock(open(layout)?, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            let record = (|| {
                held.set_len(0)?;
                held.rewind()?;
                write!(held, "{}", std::process::id())?;
                held.flush()
            })();
            record.context("cannot record the supervisor's process id")?;
            Ok(Lock { _held: held })
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let pid = read_pid(&mut file).map_or_else(String::new, |pid| format!(" (process {pid})"));
            bail!("this instance is running already{pid}; `make dev-down` stops it")
        }
        Err((_, error)) => Err(error).context("cannot lock the instance"),
    }
}

/// The process id of the running supervisor; `None` when none runs.
///
/// # Errors
/// The file cannot be read.
pub fn holder(layout: &Layout) -> anyhow::Result<Option<i32>> {
    if !layout.root.exists() {
        return Ok(None);
    }
    match Flock::lock(open(layout)?, FlockArg::LockExclusiveNonblock) {
        Ok(_free) => Ok(None),
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => Ok(read_pid(&mut file)),
        Err((_, error)) => Err(error).context("cannot look at the instance's lock"),
    }
}

fn open(layout: &Layout) -> anyhow::Result<File> {
    let path = layout.root.join("lock");
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot open {}; was it made by another user?", path.display()))
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
