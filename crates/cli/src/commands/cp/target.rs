//! Where a download goes on this machine: a new or replaced file, or what is there and leads elsewhere.

use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};

/// A download in the making. A file is written beside its target under a hidden name, for its owner alone, and takes the name when it is
/// complete; a device or named pipe is written into as the bytes come.
#[derive(Debug)]
pub struct Target {
    file: Option<File>,
    /// Where it will be, links followed.
    path: PathBuf,
    /// Hidden name of the unfinished file; none when the target itself is written.
    partial: Option<PathBuf>,
}

impl Target {
    /// Begins to write `path`. Missing folders are made.
    ///
    /// # Errors
    /// A folder or a socket is there, or nothing can be made or written there.
    pub fn begin(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot write {}", path.display());
        let found = match std::fs::metadata(path) {
            Ok(meta) => Some(meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(failed),
        };
        // A link stays; what it leads to is written.
        let end = final_path(path)?;
        let Some(meta) = found else {
            if let Some(parent) = end.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
            }
            return Self::beside(&end).with_context(failed);
        };
        let kind = meta.file_type();
        if kind.is_dir() {
            bail!("{} is a folder", path.display());
        }
        if kind.is_socket() {
            bail!("{} is a socket; nothing can be copied into it", path.display());
        }
        if !kind.is_file() {
            return Self::into(&end).with_context(failed);
        }
        match Self::beside(&end) {
            // Its folder takes no new file, but the file itself may be written.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::into(&end).with_context(failed),
            other => other.with_context(failed),
        }
    }

    fn beside(path: &Path) -> io::Result<Self> {
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        // Not made from the name, which may be as long as a name can be.
        let partial = path.with_file_name(format!(".wrenn-{}.part", hex::encode(random)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        Ok(Self { file: Some(file), path: path.to_owned(), partial: Some(partial) })
    }

    fn into(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).truncate(true).custom_flags(nix::libc::O_NOCTTY).open(path)?;
        Ok(Self { file: Some(file), path: path.to_owned(), partial: None })
    }

    /// The file to write to. None the second time.
    pub fn take_file(&mut self) -> Option<File> {
        self.file.take()
    }

    /// Gives it mode, time and its real name.
    ///
    /// # Errors
    /// The file system refuses; nothing is left of it then.
    pub fn commit(mut self, mode: u32, modified: Option<SystemTime>) -> anyhow::Result<()> {
        let Some(partial) = self.partial.clone() else { return Ok(()) };
        let finished = (|| {
            let file = OpenOptions::new().write(true).open(&partial)?;
            if let Some(modified) = modified {
                file.set_times(FileTimes::new().set_modified(modified))?;
            }
            file.set_permissions(Permissions::from_mode(mode & 0o777))?;
            match std::fs::rename(&partial, &self.path) {
                // A sticky folder, or a mount on the file itself: it may still be written.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(nix::libc::EPERM | nix::libc::EACCES | nix::libc::EBUSY)
                    ) =>
                {
                    let mut target = OpenOptions::new().write(true).truncate(true).open(&self.path)?;
                    io::copy(&mut File::open(&partial)?, &mut target)?;
                    std::fs::remove_file(&partial)
                }
                other => other,
            }
        })();
        finished.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.partial = None;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            let _ = std::fs::remove_file(partial);
        }
    }
}

/// Follows links to where a file is or will be: as many as Linux follows.
fn final_path(path: &Path) -> anyhow::Result<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..40 {
        match std::fs::read_link(&at) {
            Ok(target) => at = at.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(at),
        }
    }
    bail!("{} leads through too many links", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    fn fill(mut target: Target, text: &str, mode: u32) -> anyhow::Result<()> {
        target.take_file().unwrap().write_all(text.as_bytes()).unwrap();
        target.commit(mode, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)))
    }

    #[test]
    fn a_file_is_private_until_it_is_whole_and_then_has_the_sources_mode_and_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b/file");
        let target = Target::begin(&path).unwrap();
        let hidden = target.partial.clone().unwrap();
        assert_eq!(hidden.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fill(target, "new", 0o640).unwrap();
        let meta = path.metadata().unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o640);
        assert_eq!(meta.modified().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        assert!(!hidden.exists());
    }

    #[test]
    fn a_given_up_download_leaves_what_was_there() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        std::fs::write(&path, "old").unwrap();
        drop(Target::begin(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written_also_when_that_is_not_there_yet() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("real", home.path().join("link")).unwrap();
        for text in ["first", "second"] {
            fill(Target::begin(&home.path().join("link")).unwrap(), text, 0o600).unwrap();
            assert!(home.path().join("link").is_symlink());
            assert_eq!(std::fs::read_to_string(home.path().join("real")).unwrap(), text);
        }
    }

    #[test]
    fn a_device_or_pipe_is_written_into_and_a_socket_or_folder_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let pipe = home.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read_to_string(pipe).unwrap()
        });
        fill(Target::begin(&pipe).unwrap(), "through", 0o600).unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        fill(Target::begin(Path::new("/dev/null")).unwrap(), "gone", 0o600).unwrap();
        assert!(std::fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
        let socket = home.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(Target::begin(&socket).unwrap_err().to_string().contains("socket"));
        assert!(Target::begin(home.path()).unwrap_err().to_string().contains("folder"));
    }

    #[test]
    fn a_name_as_long_as_can_be_is_no_trouble_and_a_longer_one_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        fill(Target::begin(&home.path().join("n".repeat(255))).unwrap(), "x", 0o600).unwrap();
        assert!(Target::begin(&home.path().join("n".repeat(256))).is_err());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
