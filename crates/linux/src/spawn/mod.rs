//! Starting a program as a given user from a process with many threads.
//!
//! The child shares our memory until it has become the program (`CLONE_VM` and `CLONE_VFORK`, the calling thread waits
//! meanwhile): nothing is copied, which is several times faster than a fork, and the child can leave word of what failed
//! right in our memory. The price is that it may call the kernel and nothing else; see [`child`].
//!
//! Must never: let a program start with more rights than asked for. Each step towards them is checked, and the first
//! that fails ends the child.
#![allow(unsafe_code)]

mod child;
mod clone;
mod confine;
mod confinement;
mod pending_start;
mod raw;
mod step;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::AtomicBool;

use crate::child::Child;
use crate::descriptors::Limit;
use child::Orders;
pub use confinement::{Confinement, Root};
pub use pending_start::PendingStart;
pub use step::{Credentials, Step};

/// Command is a program to be started, in a session and process group of its own.
#[derive(Debug)]
pub struct Command {
    /// Paths to try in order until one can be executed, as a search along `PATH` would.
    pub programs: Vec<CString>,
    /// Arguments, the program's own name first.
    pub args: Vec<CString>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<CString>,
    /// Working directory, entered with the user's rights.
    pub directory: CString,
    /// Take `/` where the directory does not exist or may not be entered.
    pub or_root: bool,
    /// `None`: whoever we are.
    pub user: Option<Credentials>,
    /// Standard input, output and error. Nothing else is handed on.
    pub streams: [OwnedFd; 3],
    /// Standard input is a terminal, to become the session's own.
    pub terminal: bool,
    /// How gladly the kernel ends it when memory runs out: -1000 to 1000; `None` leaves ours.
    pub oom_score: Option<i16>,
    /// Limit of open descriptors; `None` leaves ours.
    pub descriptors: Option<Limit>,
}

/// SpawnError says why a program did not start. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The system gave no process.
    #[error("could not make a process")]
    NoProcess(#[source] io::Error),
    /// The child failed on its way to the program.
    #[error("could not {step}")]
    Step { step: Step, source: io::Error },
}

impl Command {
    /// Starts it, inside `cgroup` where that works: [`Child::in_cgroup`] tells. Returns once the program runs. Blocks
    /// for as long as the kernel takes to load it, which others end with `pending`; must be called on a runtime's thread,
    /// which will watch the child.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn start(mut self, cgroup: Option<BorrowedFd<'_>>, pending: &PendingStart) -> Result<Child, SpawnError> {
        if self.programs.is_empty() || self.args.is_empty() {
            return Err(SpawnError::NoProcess(io::ErrorKind::InvalidInput.into()));
        }
        // Become-root-by-mistake has no way in here: without root rights a switch to another user fails in the child.
        let alone = self.user.take().filter(|user| !is_ourselves(user));
        let (cloned, failure) = self
            .run(alone.as_ref(), None, |orders| clone::clone(orders, cgroup, pending))
            .map_err(SpawnError::NoProcess)?;
        let child = match Child::hold(cloned.pid, cloned.pidfd, cloned.in_cgroup) {
            Ok(child) => child,
            Err(error) => {
                // Nobody would watch it.
                let pid = nix::unistd::Pid::from_raw(cloned.pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                let _ = nix::sys::wait::waitpid(pid, None);
                return Err(SpawnError::NoProcess(error));
            }
        };
        // Given up at the last moment, it was killed as the program or just before.
        let failure = match pending.check() {
            Ok(()) => failure.map(|(step, source)| SpawnError::Step { step, source }),
            Err(late) => Some(SpawnError::NoProcess(late)),
        };
        match failure {
            None => Ok(child),
            Some(error) => {
                child.reap_ended();
                Err(error)
            }
        }
    }

    /// Starts it confined, as a process that nobody watches: returns its pid here and its pidfd. `user` and `terminal` are not
    /// looked at; the directory is the one in its own root. Blocks for as long as the kernel takes to load it.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn start_confined(self, confinement: &Confinement) -> Result<(i32, OwnedFd), SpawnError> {
        if self.programs.is_empty() || self.args.is_empty() {
            return Err(SpawnError::NoProcess(io::ErrorKind::InvalidInput.into()));
        }
        let started = self.run(None, Some(confinement), |orders| clone::in_namespaces(orders, confine::NAMESPACES));
        let (cloned, failure) = started.map_err(SpawnError::NoProcess)?;
        match failure {
            None => Ok((cloned.pid, cloned.pidfd)),
            Some((step, source)) => {
                let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(cloned.pid), None);
                Err(SpawnError::Step { step, source })
            }
        }
    }

    /// Has `clone` make the child that carries out this command; returns what it made and what the child says failed.
    fn run(
        &self,
        user: Option<&Credentials>,
        confinement: Option<&Confinement>,
        clone: impl FnOnce(&mut Orders<'_>) -> io::Result<clone::Cloned>,
    ) -> io::Result<(clone::Cloned, Option<(Step, io::Error)>)> {
        let programs = pointers(&self.programs, 0);
        let env = pointers(&self.env, 0);
        // One entry in front, for the shell that runs a script without a first line saying what runs it.
        let mut args = pointers(&self.args, 1);
        let oom_score = self.oom_score.map(|score| score.to_string());
        let mut orders = Orders {
            programs: programs.as_ptr(),
            args: args.as_mut_ptr(),
            env: env.as_ptr(),
            directory: self.directory.as_ptr(),
            or_root: self.or_root,
            user: user.map_or(ptr::null(), ptr::from_ref),
            streams: [self.streams[0].as_raw_fd(), self.streams[1].as_raw_fd(), self.streams[2].as_raw_fd()],
            terminal: self.terminal,
            oom_score: oom_score.as_ref().map_or(&[], |text| text.as_bytes()),
            descriptors: self.descriptors,
            confinement: confinement.map_or(ptr::null(), ptr::from_ref),
            began: AtomicBool::new(false),
            failed: child::Failed::default(),
        };
        let cloned = clone(&mut orders)?;
        Ok((cloned, orders.failed.read()))
    }
}

/// Without root rights nobody can be changed to, and being oneself needs no change.
fn is_ourselves(user: &Credentials) -> bool {
    let own = nix::unistd::geteuid();
    !own.is_root() && own.as_raw() == user.uid
}

/// A list as the kernel takes it: pointers, ended by a null, with `spare` entries in front.
fn pointers(texts: &[CString], spare: usize) -> Vec<*const libc::c_char> {
    let mut list = vec![ptr::null(); spare];
    list.extend(texts.iter().map(|text| text.as_ptr()));
    list.push(ptr::null());
    list
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::child::Exit;
    use crate::stream::{self, Stream};

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    fn command(programs: &[&str], args: &[&str]) -> (Command, Stream) {
        let (output, write) = stream::pipe_to_read().unwrap();
        let command = Command {
            programs: programs.iter().map(|text| c(text)).collect(),
            args: args.iter().map(|text| c(text)).collect(),
            env: vec![c("A=b")],
            directory: c("/"),
            or_root: false,
            user: None,
            streams: [fs::File::open("/dev/null").unwrap().into(), write.try_clone().unwrap(), write],
            terminal: false,
            oom_score: None,
            descriptors: None,
        };
        (command, output)
    }

    async fn read_all(stream: &Stream) -> String {
        let mut text = Vec::new();
        let mut part = [0u8; 4096];
        loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut part).unwrap() {
                Some(0) => return String::from_utf8(text).unwrap(),
                Some(bytes) => text.extend_from_slice(&part[..bytes]),
                None => {}
            }
        }
    }

    async fn run(command: Command, output: Stream) -> (String, Exit) {
        let child = command.start(None, &PendingStart::default()).unwrap();
        let text = read_all(&output).await;
        let exit = child.ended().await.unwrap();
        child.reap();
        (text, exit)
    }

    #[tokio::test]
    async fn a_program_gets_exactly_what_it_was_given() {
        let (command, output) =
            command(&["/no/such", "/dev/null/x", "/bin/sh"], &["name", "-c", "echo $0 $A; env; exit 7"]);
        let (text, exit) = run(command, output).await;
        assert!(text.starts_with("name b\n"), "{text}");
        assert_eq!(exit, Exit::Code(7));
        let stray = text
            .lines()
            .skip(1)
            .find(|line| !["A=", "PWD=", "_=", "SHLVL=", "OLDPWD"].iter().any(|k| line.starts_with(k)));
        assert_eq!(stray, None);
    }

    #[tokio::test]
    async fn nothing_of_ours_is_inherited() {
        // Not marked close-on-exec: what a careless library would leave open.
        let careless = nix::unistd::dup(fs::File::open("/dev/null").unwrap()).unwrap();
        let (command, output) = command(&["/bin/ls"], &["ls", "/proc/self/fd"]);
        let (text, _) = run(command, output).await;
        drop(careless);
        assert_eq!(text, "0\n1\n2\n3\n", "3 is ls reading the directory");
        let (command, output) = self::command(&["/bin/grep"], &["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
        let (text, _) = run(command, output).await;
        assert_eq!(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    }

    #[tokio::test]
    async fn every_step_that_fails_says_which_and_why_and_leaves_nothing() {
        for (change, step, errno) in [
            (
                Box::new(|c: &mut Command| c.directory = CString::new("/no/such").unwrap())
                    as Box<dyn Fn(&mut Command)>,
                Step::Directory,
                libc::ENOENT,
            ),
            (Box::new(|c| c.programs = vec![CString::new("/no/such").unwrap()]), Step::Program, libc::ENOENT),
            (
                Box::new(|c| c.programs = vec![CString::new("/etc/passwd").unwrap(), CString::new("/no").unwrap()]),
                Step::Program,
                libc::EACCES,
            ),
            (Box::new(|c| c.terminal = true), Step::Terminal, libc::ENOTTY),
            (Box::new(|c| c.oom_score = Some(5000)), Step::OomScore, libc::EINVAL),
            (Box::new(|c| c.descriptors = Some(Limit { soft: 2, hard: 1 })), Step::Descriptors, libc::EINVAL),
        ] {
            let (mut command, output) = command(&["/bin/true"], &["true"]);
            change(&mut command);
            match command.start(None, &PendingStart::default()) {
                Err(SpawnError::Step { step: at, source }) => {
                    assert_eq!((at, source.raw_os_error()), (step, Some(errno)));
                }
                other => panic!("{step:?}: {other:?}"),
            }
            assert_eq!(read_all(&output).await, "");
        }
    }

    #[tokio::test]
    async fn a_directory_that_need_not_be_falls_back_to_the_root() {
        let (mut command, output) = command(&["/bin/pwd"], &["pwd"]);
        command.directory = c("/no/such");
        command.or_root = true;
        assert_eq!(run(command, output).await, ("/\n".to_owned(), Exit::Code(0)));
    }

    #[tokio::test]
    async fn rights_are_given_up_for_good() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIPPED: only root can become somebody else");
        }
        let (mut command, output) = command(
            &["/bin/sh"],
            &["sh", "-c", "grep -E '^(Uid|Gid|Groups|CapEff|CapPrm)' /proc/self/status; chroot / true && echo root"],
        );
        command.user = Some(Credentials { uid: 65534, gid: 65533, groups: vec![65533, 27] });
        let (text, _) = run(command, output).await;
        let words: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "Uid: 65534 65534 65534 65534",
            "Gid: 65533 65533 65533 65533",
            "Groups: 27 65533",
            "CapPrm: 0000000000000000",
            "CapEff: 0000000000000000",
        ];
        assert_eq!(words[..5], expected, "{text}");
        assert!(!text.contains("\nroot\n"), "{text}");
    }

    #[tokio::test]
    async fn a_script_that_does_not_say_what_runs_it_is_run_by_the_shell() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "echo $1 $2\n").unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (command, output) = command(&[script.to_str().unwrap()], &["script", "one", "two"]);
        assert_eq!(run(command, output).await, ("one two\n".to_owned(), Exit::Code(0)));
    }

    #[tokio::test]
    async fn an_end_by_signal_is_told_in_number_and_name() {
        let (command, output) = command(&["/bin/sh"], &["sh", "-c", "kill -9 $$"]);
        let (_, exit) = run(command, output).await;
        assert_eq!(exit, Exit::Signal { number: 9, core_dumped: false });
        assert_eq!(exit.to_string(), "signal: 9 (SIGKILL)");
        assert_eq!(Exit::Code(1).to_string(), "exit status: 1");
        assert_eq!(Exit::Signal { number: 40, core_dumped: true }.to_string(), "signal: 40 (core dumped)");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_threads_start_at_once_while_others_use_the_allocator() {
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                tokio::spawn(async move {
                    for turn in 0..25 {
                        let mark = format!("{task}-{turn}");
                        let (command, output) = command(&["/bin/echo"], &["echo", &mark]);
                        let (text, exit) = run(command, output).await;
                        assert_eq!((text.trim(), exit), (mark.as_str(), Exit::Code(0)));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn starting_is_quick() {
        let mut times = Vec::new();
        for _ in 0..100 {
            let (command, output) = command(&["/bin/true"], &["true"]);
            let began = Instant::now();
            let child = command.start(None, &PendingStart::default()).unwrap();
            times.push(began.elapsed());
            child.ended().await.unwrap();
            child.reap();
            drop(output);
        }
        times.sort();
        eprintln!("start of /bin/true: median {:?}, slowest {:?}", times[50], times[99]);
        // A fork that copied us, or a wait for the program's end, would be far above.
        assert!(times[50] < Duration::from_millis(20), "{:?}", times[50]);
    }

    #[tokio::test]
    async fn a_cgroup_holds_the_program_from_birth_and_ends_even_what_left_its_session() {
        let Some(cgroup) = own_cgroup() else { return };
        let (command, output) =
            command(&["/bin/sh"], &["sh", "-c", "cat /proc/self/cgroup; setsid sleep 1000 & sleep 1000"]);
        let child = command.start(Some(cgroup.as_fd()), &PendingStart::default()).unwrap();
        assert!(child.in_cgroup());
        assert!(cgroup.is_populated().unwrap());
        cgroup.kill().unwrap();
        assert_eq!(child.ended().await.unwrap(), Exit::Signal { number: 9, core_dumped: false });
        child.reap();
        // The end of the output says that the sleep of another session is gone too.
        read_all(&output).await;
        let began = Instant::now();
        while cgroup.is_populated().unwrap() || cgroup.remove().is_err() {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_no_cgroup_is_refused_and_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let error = crate::cgroup::Cgroup::open(&dir.path().join("x")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(!dir.path().join("x").exists());
        // A descriptor that is no cgroup: the program starts without one.
        let (command, output) = command(&["/bin/true"], &["true"]);
        let child = command.start(Some(fs::File::open("/").unwrap().as_fd()), &PendingStart::default()).unwrap();
        assert!(!child.in_cgroup());
        assert_eq!(child.ended().await.unwrap(), Exit::Code(0));
        child.reap();
        drop(output);
    }

    #[tokio::test]
    async fn a_cgroup_that_was_killed_before_keeps_no_program_from_starting() {
        let Some(cgroup) = own_cgroup() else { return };
        cgroup.kill().unwrap();
        let (command, output) = command(&["/bin/echo"], &["echo", "alive"]);
        let child = command.start(Some(cgroup.as_fd()), &PendingStart::default()).unwrap();
        assert_eq!(read_all(&output).await, "alive\n");
        assert_eq!(child.ended().await.unwrap(), Exit::Code(0));
        child.reap();
        let began = Instant::now();
        while cgroup.remove().is_err() {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_child_that_is_stopped_on_its_way_can_be_given_up() {
        let Some(cgroup) = own_cgroup() else { return };
        cgroup.set("cgroup.freeze", "1").unwrap();
        let (command, output) = command(&["/bin/true"], &["true"]);
        let (cgroup, pending) = (std::sync::Arc::new(cgroup), std::sync::Arc::new(PendingStart::default()));
        let (inside, watched) = (cgroup.clone(), pending.clone());
        let start = tokio::task::spawn_blocking(move || command.start(Some(inside.as_fd()), &watched));
        let began = Instant::now();
        while !pending.is_under_way() {
            assert!(began.elapsed() < Duration::from_secs(10));
            tokio::task::yield_now().await;
        }
        assert!(!start.is_finished());
        pending.give_up();
        match start.await.unwrap() {
            Err(SpawnError::NoProcess(error)) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            other => panic!("{other:?}"),
        }
        assert_eq!(read_all(&output).await, "");
        let began = Instant::now();
        while cgroup.remove().is_err() {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_start_given_up_before_it_began_does_not_begin() {
        let (command, _output) = command(&["/bin/true"], &["true"]);
        let pending = PendingStart::default();
        pending.give_up();
        match command.start(None, &pending) {
            Err(SpawnError::NoProcess(error)) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            other => panic!("{other:?}"),
        }
    }

    fn own_cgroup() -> Option<crate::cgroup::Cgroup> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| place.to_owned())
        });
        static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("wrenn-linux-{}-{number}", std::process::id());
        let cgroup = root.and_then(|root| crate::cgroup::Cgroup::open(&std::path::Path::new(&root).join(name)).ok());
        if cgroup.is_none() {
            eprintln!("SKIPPED: this machine lets us make no cgroup");
        }
        cgroup
    }
}
