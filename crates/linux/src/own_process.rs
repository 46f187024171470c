//! The calling process itself: what it leaves to others, and how much it may open.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Keeps what this process holds from others on the machine: files it makes from now on are its user's alone, and its memory is neither
/// written into a core file nor readable for processes of its user. Programs it starts inherit the first two.
///
/// # Errors
/// The kernel refuses; the rest is done all the same.
pub fn keep_private() -> io::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    let no_core = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    prctl::set_dumpable(false)?;
    Ok(no_core?)
}

/// Raises the number of files that this process may have open to the most it is allowed, and returns that.
///
/// # Errors
/// The kernel refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// Set in the process that a test starts of itself: these limits are of a whole process and do not come back.
    const INSIDE: &str = "WRENN_TEST_OWN_PROCESS";

    #[test]
    fn a_process_keeps_to_itself_and_opens_as_much_as_it_may() {
        if std::env::var_os(INSIDE).is_none() {
            let test = "own_process::tests::a_process_keeps_to_itself_and_opens_as_much_as_it_may";
            let ended =
                Command::new(std::env::current_exe().unwrap()).args(["--exact", test]).env(INSIDE, "1").status();
            assert!(ended.unwrap().success());
            return;
        }
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
        assert_eq!(raise_open_files().unwrap(), hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        keep_private().unwrap();
        let home = tempfile::tempdir().unwrap();
        let (file, dir) = (home.path().join("file"), home.path().join("dir"));
        std::fs::write(&file, "").unwrap();
        std::fs::create_dir(&dir).unwrap();
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&dir)), (0o600, 0o700));
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert!(!prctl::get_dumpable().unwrap());
    }
}
