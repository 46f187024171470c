//! Doing file work with another user's rights, on one thread, and getting one's own back afterwards.
//!
//! Linux keeps credentials per thread; libc's wrappers hide that by changing all threads at once. Here the bare system
//! calls are used, so that the rest of the program stays who it is. Changed are the file-system user and group, the
//! supplementary groups and the effective capabilities: all that permission checks on files look at. Real, effective
//! and saved ids stay, so the kernel lets the thread go back, and no other user may signal or trace it meanwhile.
//!
//! Must never: leave a thread behind with foreign credentials. If its own cannot be put back, the process aborts.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr;

use crate::syscall::{SyscallError, check};
use crate::users::User;

/// `_LINUX_CAPABILITY_VERSION_3`: capabilities in two words of 32 bits.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Makes `setfsuid` and `setfsgid` change nothing and answer what is set.
const ASK: u32 = u32::MAX;

/// Runs `act` on this thread with `user`'s rights on files, and then puts the thread's own rights back, also when
/// `act` panics. When the thread has that user's rights already, nothing is changed.
///
/// `act` must start no thread: a new thread inherits the rights its maker has at that moment.
///
/// # Errors
/// The rights could not be taken: the program is not root. `act` has then not run.
pub fn as_user<T>(user: &User, act: impl FnOnce() -> T) -> Result<T, SyscallError> {
    // Either the program is that user, or this thread acts for him already and cannot take his rights a second time.
    if set_fsuid(ASK) == user.uid {
        return Ok(act());
    }
    let own = OwnRights::save()?;
    // Before the guard exists: whoever may not do this has changed nothing, and could not put anything back.
    set_groups(&user.groups)?;
    // From here on every way out, the error's and the panic's too, passes through the guard's drop.
    let guard = PutBack { own, _here: PhantomData };
    set_fsgid(user.gid);
    set_fsuid(user.uid);
    expect_ids(user.uid, user.gid)?;
    // The kernel itself takes away only what is about files by name. Tracing rights open doors in /proc, resource
    // rights open the disk's reserve: a user without them must not have them through us.
    Capabilities::of_this_thread()?.without_effective().apply()?;
    let done = act();
    drop(guard);
    Ok(done)
}

/// OwnRights are the rights a thread has before it acts for somebody.
struct OwnRights {
    fsuid: u32,
    fsgid: u32,
    groups: Vec<u32>,
    capabilities: Capabilities,
}

/// Not `Send`: the rights belong to the thread that saved them.
struct PutBack {
    own: OwnRights,
    _here: PhantomData<*const ()>,
}

impl Drop for PutBack {
    fn drop(&mut self) {
        if self.own.put_back().is_err() {
            // Going on would mean doing root's work as somebody else, or worse, the other way round.
            std::process::abort();
        }
    }
}

impl OwnRights {
    fn save() -> Result<Self, SyscallError> {
        Ok(Self {
            fsuid: set_fsuid(ASK),
            fsgid: set_fsgid(ASK),
            groups: groups()?,
            capabilities: Capabilities::of_this_thread()?,
        })
    }

    fn put_back(&self) -> Result<(), SyscallError> {
        // The user first: only the thread's own effective id may do the rest.
        set_fsuid(self.fsuid);
        // Then the capabilities, which setting the groups needs.
        self.capabilities.apply()?;
        set_fsgid(self.fsgid);
        set_groups(&self.groups)?;
        expect_ids(self.fsuid, self.fsgid)
    }
}

/// `setfsuid` reports no failure: whether it worked is seen by asking.
fn expect_ids(uid: u32, gid: u32) -> Result<(), SyscallError> {
    if set_fsuid(ASK) == uid && set_fsgid(ASK) == gid {
        return Ok(());
    }
    Err(SyscallError::new("act as", format!("user {uid}"), std::io::Error::from_raw_os_error(libc::EPERM)))
}

/// Returns the id before.
fn set_fsuid(uid: u32) -> u32 {
    // SAFETY: a plain number; changes this thread's file-system user at most.
    let before = unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
    u32::try_from(before).unwrap_or(ASK)
}

/// Returns the id before.
fn set_fsgid(gid: u32) -> u32 {
    // SAFETY: a plain number; changes this thread's file-system group at most.
    let before = unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    u32::try_from(before).unwrap_or(ASK)
}

fn groups() -> Result<Vec<u32>, SyscallError> {
    // SAFETY: with a length of 0 the kernel writes nothing and answers the count.
    let count = unsafe { libc::syscall(libc::SYS_getgroups, 0, ptr::null_mut::<u32>()) };
    let count = check(count, "read", "supplementary groups")?;
    let mut groups = vec![0u32; usize::try_from(count).unwrap_or(0)];
    if groups.is_empty() {
        return Ok(groups);
    }
    // SAFETY: the vector has room for `count` ids, and nobody but this thread changes how many there are.
    let got = unsafe { libc::syscall(libc::SYS_getgroups, count, groups.as_mut_ptr()) };
    check(got, "read", "supplementary groups").map(|_| groups)
}

/// The bare call: libc's would change every thread of the process.
fn set_groups(groups: &[u32]) -> Result<(), SyscallError> {
    // SAFETY: pointer and length are of one live slice, which the kernel only reads.
    let set = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(set, "set", "supplementary groups").map(|_| ())
}

/// `struct __user_cap_data_struct`, twice.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Capabilities([CapabilityWord; 2]);

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `struct __user_cap_header_struct`; pid 0 is the calling thread.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

impl Capabilities {
    fn of_this_thread() -> Result<Self, SyscallError> {
        let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
        let mut capabilities = Self::default();
        // SAFETY: both pointers are live and laid out as version 3 wants: a header and two words of three numbers.
        let got = unsafe { libc::syscall(libc::SYS_capget, &mut header, &mut capabilities) };
        check(got, "read", "capabilities").map(|_| capabilities)
    }

    fn without_effective(mut self) -> Self {
        for word in &mut self.0 {
            word.effective = 0;
        }
        self
    }

    fn apply(&self) -> Result<(), SyscallError> {
        let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
        // SAFETY: as above; the kernel only reads the words.
        let set = unsafe { libc::syscall(libc::SYS_capset, &mut header, self) };
        check(set, "set", "capabilities").map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// These tests change credentials, which only root may.
    fn as_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn somebody(groups: &[u32]) -> User {
        let (home, shell) = ("/nonexistent".into(), "/bin/sh".into());
        User { name: "somebody".into(), uid: 54_321, gid: 54_322, home, shell, groups: groups.to_vec() }
    }

    fn status() -> String {
        let all = fs::read_to_string("/proc/thread-self/status").unwrap();
        all.lines().filter(|l| ["Uid", "Gid", "Gro", "Cap"].contains(&&l[..3])).map(|l| format!("{l}\n")).collect()
    }

    #[test]
    fn another_users_rights_hold_inside_and_end_with_it() {
        if !as_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "root's").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let before = status();
        let made = dir.path().join("made");
        as_user(&somebody(&[54_322]), || {
            assert_eq!(fs::read(&secret).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
            assert!(fs::write(dir.path().join("secret"), "x").is_err());
            assert!(std::os::unix::fs::chown(&secret, Some(54_321), None).is_err());
            fs::write(&made, "mine").unwrap();
            assert!(status().contains("CapEff:\t0000000000000000"));
        })
        .unwrap();
        let owner = fs::metadata(&made).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (54_321, 54_322));
        assert_eq!(status(), before);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "root's");
    }

    #[test]
    fn other_threads_keep_their_own_rights() {
        if !as_root() {
            return;
        }
        let before = status();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let (answer, answered) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            asked.recv().unwrap();
            answer.send(status()).unwrap();
        });
        let seen = as_user(&somebody(&[54_322]), || {
            ask.send(()).unwrap();
            answered.recv().unwrap()
        });
        other.join().unwrap();
        assert_eq!(seen.unwrap(), before);
    }

    #[test]
    fn groups_count_and_only_the_given_ones() {
        if !as_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let shared = dir.path().join("shared");
        fs::write(&shared, "ours").unwrap();
        std::os::unix::fs::chown(&shared, Some(0), Some(54_400)).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(as_user(&somebody(&[54_322, 54_400]), || fs::read(&shared)).unwrap().is_ok());
        assert!(as_user(&somebody(&[54_322]), || fs::read(&shared)).unwrap().is_err());
    }

    #[test]
    fn acting_for_the_same_user_twice_changes_nothing_and_for_another_is_refused() {
        if !as_root() {
            return;
        }
        let before = status();
        let (me, other) = (somebody(&[54_322]), User { uid: 54_999, ..somebody(&[54_322]) });
        let seen = as_user(&me, || {
            let outer = status();
            assert!(as_user(&other, || ()).is_err());
            (outer, as_user(&me, status).unwrap(), status())
        });
        let (outer, inner, after) = seen.unwrap();
        assert_eq!((&inner, &after), (&outer, &outer));
        assert_eq!(status(), before);
    }

    #[test]
    fn a_panic_inside_gives_the_rights_back() {
        if !as_root() {
            return;
        }
        let before = status();
        let panicked = catch_unwind(AssertUnwindSafe(|| as_user(&somebody(&[54_322]), || panic!("on purpose"))));
        assert!(panicked.is_err());
        assert_eq!(status(), before);
    }
}
