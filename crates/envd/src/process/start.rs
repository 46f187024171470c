//! Starting a process: user, plan, pipes or terminal, cgroup, child, and the task that follows it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wrenn_contract::proto::process::ProcessConfig;
use wrenn_domain::limits::{GUEST_PROCESSES_MAX, PROCESS_LISTED_BYTES, PROCESS_START_MAX};
use wrenn_linux::child::Child;
use wrenn_linux::pty::{self, Size};
use wrenn_linux::spawn::{Command, PendingStart, SpawnError, Step};
use wrenn_linux::stream;
use wrenn_linux::users::User;

use super::cgroups;
use super::driver::{Driver, Pipes};
use super::input::{Input, Kind};
use super::output::From;
use super::plan::{Plan, PlanError};
use super::reader::Reader;
use super::running::{Leash, Process};
use super::table::Refused;
use super::{Ground, Processes};
use crate::identity::Defaults;

/// User processes end before envd does when memory runs out.
const OOM_SCORE: i16 = 100;

/// Between two attempts to end a start that takes too long.
const GIVE_UP_EVERY: Duration = Duration::from_secs(1);

/// A caller's request to start a process.
#[derive(Debug)]
pub struct Launch {
    pub config: ProcessConfig,
    /// Name of the user to run as.
    pub user: String,
    pub defaults: Defaults,
    pub tag: Option<String>,
    /// A terminal of this size instead of pipes.
    pub terminal: Option<Size>,
    /// A pipe to be fed; else it reads end of file. A terminal is always fed.
    pub stdin: bool,
    /// Whether the process outlives the stream that started it.
    pub detach: bool,
    /// When it is killed, unless it is detached.
    pub deadline: Option<Instant>,
}

/// A process that runs, with its first reader.
#[derive(Debug)]
pub struct Started {
    pub reader: Reader,
    /// None when detached.
    pub leash: Option<Leash>,
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("there is no user {0:?}")]
    NoUser(String),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("the working directory {0:?} does not exist")]
    NoDirectory(String),
    #[error("the working directory {0:?} is not a directory")]
    NotADirectory(String),
    #[error("user {user:?} may not enter the working directory {directory:?}")]
    DirectoryClosed { directory: String, user: String },
    #[error("the program {0:?} was not found")]
    NoProgram(String),
    #[error("user {user:?} may not execute {program:?}")]
    NotExecutable { program: String, user: String },
    #[error("arguments and environment are too long together")]
    TooLong,
    #[error("a process with the tag {0:?} is running")]
    TagTaken(String),
    #[error("{GUEST_PROCESSES_MAX} processes are running; end some first")]
    Full,
    #[error("the system has no room for another process")]
    NoRoom(#[source] io::Error),
    #[error("the program did not start within {} s", PROCESS_START_MAX.as_secs())]
    TooSlow,
    #[error("could not read the system's users")]
    Users(#[source] io::Error),
    #[error("could not make pipes or a terminal")]
    Streams(#[source] io::Error),
    #[error("could not start the process")]
    Spawn(#[source] SpawnError),
}

impl Processes {
    /// Starts a process and the task that follows it. Blocking; on a runtime's thread.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing of the process is left then.
    pub fn start(self: &Arc<Self>, request: Launch) -> Result<Started, StartError> {
        let tag = request.tag.clone().unwrap_or_default();
        let reservation = self.table.reserve(request.tag.clone()).map_err(|refused| match refused {
            Refused::Full => StartError::Full,
            Refused::TagTaken => StartError::TagTaken(tag),
        })?;
        let user = User::find(&request.user).map_err(StartError::Users)?;
        let user = user.ok_or_else(|| StartError::NoUser(request.user.clone()))?;
        let plan = Plan::new(&request.config, &user, &request.defaults, request.terminal.is_some())?;
        let ends = Ends::open(&request, &user).map_err(|error| match is_lack(&error) {
            true => StartError::NoRoom(error),
            false => StartError::Streams(error),
        })?;
        let ground = self.ground();
        let (child, slot) = launch(ground, plan, ends.child, request.terminal.is_some(), &user)?;
        let process = Arc::new(Process::new(
            child.pid().cast_unsigned(),
            request.tag,
            listed(request.config),
            ends.input,
            slot,
            ends.terminal,
        ));
        // From here on the end of this function, however it comes, ends the process.
        let leash = (!request.detach).then(|| Leash::new(process.clone(), &self.lives));
        // The first reader always finds a place.
        let reader = Reader::attach(&process, From::Oldest).ok_or(StartError::Full)?;
        reservation.fill(&process);
        let deadline = request.deadline.filter(|_| leash.is_some());
        tokio::spawn(Driver { processes: self.clone(), process, child, pipes: ends.pipes, deadline }.run());
        Ok(Started { reader, leash })
    }
}

/// Our ends and the child's.
struct Ends {
    input: Input,
    pipes: Pipes,
    terminal: Option<Arc<stream::Stream>>,
    child: [std::os::fd::OwnedFd; 3],
}

impl Ends {
    fn open(launch: &Launch, user: &User) -> io::Result<Self> {
        if let Some(size) = launch.terminal {
            let (master, slave) = pty::open(size, user.uid)?;
            let master = Arc::new(master);
            return Ok(Self {
                input: Input::new(Kind::Terminal, Some(master.clone())),
                pipes: Pipes::terminal(master.clone()),
                terminal: Some(master),
                child: [slave.try_clone()?, slave.try_clone()?, slave],
            });
        }
        let (stdout, to_stdout) = stream::pipe_to_read()?;
        let (stderr, to_stderr) = stream::pipe_to_read()?;
        let (input, from_stdin) = if launch.stdin {
            let (stdin, from_stdin) = stream::pipe_to_write()?;
            (Input::new(Kind::Pipe, Some(Arc::new(stdin))), from_stdin)
        } else {
            (Input::new(Kind::Nothing, None), std::fs::File::open("/dev/null")?.into())
        };
        let child = [from_stdin, to_stdout, to_stderr];
        Ok(Self { input, pipes: Pipes::pair(stdout, stderr), terminal: None, child })
    }
}

fn launch(
    ground: &Ground,
    plan: Plan,
    streams: [std::os::fd::OwnedFd; 3],
    terminal: bool,
    user: &User,
) -> Result<(Child, Option<cgroups::Slot>), StartError> {
    use std::os::fd::AsFd;
    let directory = plan.directory.to_string_lossy().into_owned();
    let program = plan.program_name;
    let command = Command {
        programs: plan.programs,
        args: plan.args,
        env: plan.env,
        directory: plan.directory,
        or_root: plan.or_root,
        user: Some(plan.user),
        streams,
        terminal,
        oom_score: Some(OOM_SCORE),
        descriptors: ground.child_descriptors,
    };
    let slot = ground.cgroups.take(if terminal { cgroups::Kind::Terminal } else { cgroups::Kind::User });
    let pending = Arc::new(PendingStart::default());
    let watch = tokio::spawn(give_up_late(pending.clone()));
    let started = command.start(slot.as_ref().map(|slot| slot.cgroup().as_fd()), &pending);
    watch.abort();
    let user = user.name.clone();
    match started {
        Ok(child) if child.in_cgroup() => Ok((child, slot)),
        Ok(child) => {
            slot.into_iter().for_each(|slot| ground.cgroups.refused(slot));
            Ok((child, None))
        }
        Err(error) => {
            slot.into_iter().for_each(|slot| ground.cgroups.give_back(slot));
            Err(explain(error, program, directory, user))
        }
    }
}

/// The thread that starts a process only waits; this is who ends that.
async fn give_up_late(pending: Arc<PendingStart>) {
    tokio::time::sleep(PROCESS_START_MAX).await;
    loop {
        pending.give_up();
        tokio::time::sleep(GIVE_UP_EVERY).await;
    }
}

fn explain(error: SpawnError, program: String, directory: String, user: String) -> StartError {
    use nix::libc::{E2BIG, EACCES, ELOOP, ENOENT, ENOTDIR};
    match error {
        SpawnError::NoProcess(source) if source.kind() == io::ErrorKind::TimedOut => StartError::TooSlow,
        SpawnError::NoProcess(source) if is_lack(&source) => StartError::NoRoom(source),
        SpawnError::NoProcess(_) => StartError::Spawn(error),
        SpawnError::Step { step, ref source } => match (step, source.raw_os_error()) {
            (Step::Directory, Some(ENOENT | ELOOP)) => StartError::NoDirectory(directory),
            (Step::Directory, Some(ENOTDIR)) => StartError::NotADirectory(directory),
            (Step::Directory, Some(EACCES)) => StartError::DirectoryClosed { directory, user },
            (Step::Program, Some(ENOENT | ENOTDIR | ELOOP)) => StartError::NoProgram(program),
            (Step::Program, Some(EACCES)) => StartError::NotExecutable { program, user },
            (Step::Program, Some(E2BIG)) => StartError::TooLong,
            _ => StartError::Spawn(error),
        },
    }
}

/// The system has no more processes, memory, descriptors or terminals.
fn is_lack(error: &io::Error) -> bool {
    use nix::libc::{EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC};
    matches!(error.raw_os_error(), Some(EAGAIN | ENOMEM | EMFILE | ENFILE | ENOSPC))
}

/// Cuts a command to [`PROCESS_LISTED_BYTES`] for listings: the command first, then arguments, then the environment.
fn listed(mut config: ProcessConfig) -> ProcessConfig {
    let mut left = PROCESS_LISTED_BYTES;
    let mut fits = |bytes: usize| {
        let fits = bytes <= left;
        left = if fits { left - bytes } else { 0 };
        fits
    };
    if !fits(config.cmd.len()) {
        let end = (0..=PROCESS_LISTED_BYTES).rev().find(|end| config.cmd.is_char_boundary(*end)).unwrap_or(0);
        config.cmd.truncate(end);
        config.cmd.shrink_to_fit();
    }
    let args = config.args.iter().take_while(|arg| fits(arg.len() + size_of::<String>())).count();
    config.args.truncate(args);
    config.args.shrink_to_fit();
    let envs = config.envs.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<String>()).sum();
    if !fits(envs) {
        config.envs = Default::default();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_listed_cut_off() {
        let args: Vec<String> = (0..1000).map(|number| format!("{number:0100}")).collect();
        let envs = [("A".to_owned(), "b".repeat(PROCESS_LISTED_BYTES))].into_iter().collect();
        let cut = listed(ProcessConfig { cmd: "tool".to_owned(), args: args.clone(), envs, ..Default::default() });
        assert_eq!(cut.cmd, "tool");
        assert!(cut.args.len() > 100 && cut.args.len() < 164 && args.starts_with(&cut.args));
        assert!(cut.envs.is_empty());
        let cut = listed(ProcessConfig { cmd: "€".repeat(PROCESS_LISTED_BYTES), ..Default::default() });
        assert_eq!(cut.cmd, "€".repeat(PROCESS_LISTED_BYTES / 3));
        let small = ProcessConfig { cmd: "a".to_owned(), args: vec!["b".to_owned()], ..Default::default() };
        assert_eq!(listed(small.clone()), small);
    }
}
