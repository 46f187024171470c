//! Leftovers: what agents left on this machine whose directory is gone, so that no agent will ever find it again.
//!
//! An agent's directory is gone when the file of its instance is. A directory that merely cannot be read is there. Nothing is
//! removed that cannot be traced to a directory, except what carries the name of an instance without a directory in /run: each
//! agent makes that one before anything else, so no agent runs for it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wrenn_linux::process::{Identity, Process};
use wrenn_linux::{loopdev, mounts, netns, nft};

use crate::instance::FILE as INSTANCE;
use crate::network::host_table_name;
use crate::storage::OWN_XFS;

/// Longest time a killed VMM may take to end.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// File in an agent's directory in /run that holds the path of its directory.
const DIRECTORY: &str = "directory";
/// Digits of an instance's id.
const ID_DIGITS: usize = 4;

/// Leftover is one thing on this machine that no agent owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// VMM of an agent whose directory this was.
    Vmm { owner: PathBuf, process: Identity },
    /// Network namespace of this name.
    Namespace(String),
    /// Rules on the host and the directory in /run of this instance.
    Instance(String),
    /// Loop device over a store, and the paths at which it is mounted.
    Store { device: PathBuf, targets: Vec<PathBuf> },
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vmm { owner, process } => write!(f, "VMM {} of {}", process.pid, owner.display()),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Instance(id) => write!(f, "rules and /run/wrenn-{id} of instance {id}"),
            Self::Store { device, targets } => {
                write!(f, "loop device {}", device.display())?;
                targets.iter().try_for_each(|target| write!(f, ", mounted at {}", target.display()))
            }
        }
    }
}

/// Notes in an agent's directory in /run which directory it serves.
///
/// # Errors
/// The file cannot be written.
pub fn note_directory(run_dir: &Path, dir: &Path) -> io::Result<()> {
    let dir = std::path::absolute(dir)?;
    wrenn_linux::files::replace_unsynced(&run_dir.join(DIRECTORY), dir.as_os_str().as_bytes())
}

/// Finds everything, in the order in which it can be removed. Blocks.
///
/// # Errors
/// The kernel does not list its devices or mounts.
pub fn find() -> io::Result<Vec<Leftover>> {
    let vmms = wrenn_vmm::all_vmms().into_iter().filter(|(owner, _)| is_gone(owner));
    let mut found: Vec<Leftover> = vmms.map(|(owner, process)| Leftover::Vmm { owner, process }).collect();
    let names = netns::list("wrenn-");
    let runs = std::fs::read_dir("/run").into_iter().flatten().flatten();
    let runs = runs.filter_map(|entry| entry.file_name().into_string().ok());
    let ids = names.iter().filter_map(|name| instance_of(name, true)).map(str::to_owned);
    let ids: BTreeSet<String> = ids.chain(runs.filter_map(|run| instance_of(&run, false).map(str::to_owned))).collect();
    for id in ids.into_iter().filter(|id| is_abandoned(Path::new("/run"), id)) {
        let namespaces = names.iter().filter(|name| instance_of(name, true) == Some(&id));
        found.extend(namespaces.cloned().map(Leftover::Namespace));
        found.push(Leftover::Instance(id));
    }
    for (device, backing) in loopdev::attached()? {
        let path = backing.as_os_str().as_bytes();
        let path = Path::new(std::ffi::OsStr::from_bytes(path.strip_suffix(b" (deleted)").unwrap_or(path)));
        if path.file_name().is_some_and(|name| name == OWN_XFS) && is_gone(path.parent().unwrap_or(path)) {
            found.push(Leftover::Store { targets: mounts::targets_of(&device)?, device });
        }
    }
    Ok(found)
}

impl Leftover {
    /// Removes it. One that is gone meanwhile is no error.
    ///
    /// # Errors
    /// It does not go; the reason, for people.
    pub async fn remove(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Vmm { process, .. } => match Process::find(process) {
                Some(vmm) => Ok(vmm.kill(KILL_WAIT).await?),
                None => Ok(()),
            },
            Self::Namespace(name) => Ok(netns::remove(&name)?),
            Self::Instance(id) => {
                nft::remove(&host_table_name(&id))?;
                match std::fs::remove_dir_all(Path::new("/run").join(format!("wrenn-{id}"))) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
                    _ => Ok(()),
                }
            }
            Self::Store { device, targets } => {
                targets.iter().try_for_each(|target| mounts::detach(target))?;
                Ok(loopdev::detach(&device)?)
            }
        }
    }
}

/// Id of the instance a name belongs to: `wrenn-<id>`, or `wrenn-<id>-<number>` for a namespace.
fn instance_of(name: &str, numbered: bool) -> Option<&str> {
    let rest = name.strip_prefix("wrenn-")?;
    let (id, number) = if numbered { rest.split_once('-')? } else { (rest, "0") };
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_id && is_number).then_some(id)
}

/// Whether no agent can come back for an instance. One whose directory is not known is taken to be somebody's.
fn is_abandoned(run: &Path, id: &str) -> bool {
    let run_dir = run.join(format!("wrenn-{id}"));
    match std::fs::read(run_dir.join(DIRECTORY)) {
        Ok(path) => is_gone(Path::new(std::ffi::OsStr::from_bytes(&path))),
        Err(_) => is_missing(&run_dir),
    }
}

/// Whether a directory, or the one a store in it belongs to, is no agent's any more.
fn is_gone(dir: &Path) -> bool {
    is_missing(&dir.join(INSTANCE)) && dir.parent().is_none_or(|parent| is_missing(&parent.join(INSTANCE)))
}

/// Whether a path is certainly not there.
fn is_missing(path: &Path) -> bool {
    path.symlink_metadata()
        .is_err_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_instances_are_taken_for_theirs() {
        for (name, expected) in [
            ("wrenn-0a1b-7", Some("0a1b")),
            ("wrenn-bench-7", None),
            ("wrenn-vmm-life-7", None),
            ("wrenn-0a1b", None),
            ("wrenn-0a1b-", None),
            ("wrenn-0a1b-7x", None),
            ("wrenn-0A1B-7", None),
        ] {
            assert_eq!(instance_of(name, true), expected, "{name}");
        }
        assert_eq!(instance_of("wrenn-0a1b", false), Some("0a1b"));
        assert_eq!(instance_of("wrenn-agent.pid", false), None);
    }

    #[test]
    fn what_has_a_directory_or_may_have_one_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let (run, dir) = (home.path().join("run"), home.path().join("my dir"));
        std::fs::create_dir_all(dir.join("store")).unwrap();
        assert!(is_abandoned(&run, "0a1b"), "no agent made its directory in /run");
        let run_dir = run.join("wrenn-0a1b");
        std::fs::create_dir_all(&run_dir).unwrap();
        assert!(!is_abandoned(&run, "0a1b"), "an agent that did not say where its directory is");
        std::fs::write(dir.join(INSTANCE), "").unwrap();
        note_directory(&run_dir, &dir).unwrap();
        assert!(!is_abandoned(&run, "0a1b"));
        assert!(!is_gone(&dir.join("store")), "a store of its own is in the directory");
        std::fs::remove_file(dir.join(INSTANCE)).unwrap();
        assert!(is_abandoned(&run, "0a1b") && is_gone(&dir.join("store")));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(is_abandoned(&run, "0a1b") && is_gone(&dir.join("store")));
    }

    /// Needs root, as every agent does.
    #[tokio::test]
    async fn a_namespace_and_a_vmm_of_a_removed_directory_are_found_and_removed() {
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let id = format!("{:04x}", std::process::id() & 0xffff);
        let name = format!("wrenn-{id}-1");
        drop(netns::Netns::create(&name).unwrap());
        let found = find().unwrap();
        assert!(found.contains(&Leftover::Namespace(name.clone())), "{found:?}");
        assert!(found.contains(&Leftover::Instance(id.clone())), "{found:?}");
        assert!(!found.iter().any(|one| one.to_string().contains(&home.path().display().to_string())));
        for leftover in found {
            let ours =
                matches!(&leftover, Leftover::Namespace(n) if *n == name) || leftover == Leftover::Instance(id.clone());
            if ours {
                leftover.remove().await.unwrap();
            }
        }
        assert!(!find().unwrap().iter().any(|one| one.to_string().contains(&id)));
    }
}
