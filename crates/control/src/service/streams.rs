//! Processes that are followed and fed live: run, attached to, with or without a terminal. Counts who holds how many.
//!
//! Calls are boxed here: a stream that lasts must not hold the room of every call it may make.

use bytes::Bytes;
use connectrpc::ErrorCode;
use futures::Stream;
use wrenn_contract::host::RelayError;
use wrenn_contract::proto::process::{ProcessConfig, Signal};
use wrenn_domain::command::Command;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{PROCESS_START_MAX, STREAMS_PER_SANDBOX_MAX};
use wrenn_domain::names::ProcessTag;

use super::exec;
use super::lookup;
use crate::actor::{Actor, Credential};
use crate::context::Context;
use crate::error::{ServiceError, guest_error};
pub use crate::fleet::guest::{Ended, InputKind, ProcessEvent, Selector, Size};
use crate::fleet::guest::{ProcessStream, Start};
use crate::fleet::{FleetError, GuestClient};
use crate::state::pool::Permit;

/// A running sandbox somebody entered to stay a while.
pub struct Inside {
    guest: GuestClient,
    _permits: (Permit<Credential>, Permit<SandboxId>),
}

/// Enters a running sandbox. Counts as activity.
///
/// # Errors
/// When the sandbox does not run, or too many streams are open.
pub async fn enter(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<Inside, ServiceError> {
    let max = ctx.tuning.streams_per_credential;
    let credential = ctx
        .permits
        .sockets
        .take(actor.credential.clone())
        .map_err(|_| ServiceError::Busy(format!("this key or session has {max} streams open; close some first")))?;
    let guest = Box::pin(lookup::guest(ctx, actor, id)).await?;
    // Only now the caller is known to have a right to the sandbox: nobody may use up another team's permits.
    let sandbox = ctx.permits.sandboxes.take(id).map_err(|_| {
        ServiceError::Busy(format!("this capsule has {STREAMS_PER_SANDBOX_MAX} streams open; close some first"))
    })?;
    Ok(Inside { guest, _permits: (credential, sandbox) })
}

/// A process whose output is taken as it comes.
pub struct Live {
    stream: ProcessStream,
    pid: u32,
}

impl Live {
    /// The process's pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The next piece of news. The end of the process is the last one. Cancelling it loses nothing.
    ///
    /// # Errors
    /// When the connection to the guest breaks.
    pub async fn next(&mut self) -> Result<ProcessEvent, ServiceError> {
        let event = self.stream.next().await.map_err(guest_error)?;
        event.ok_or_else(|| guest_error(FleetError::Nonsense("the stream ended before the process".to_owned())))
    }
}

/// Outcome of feeding input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    All,
    /// Too many calls are under way: not one byte of it got through.
    Nothing,
}

impl Inside {
    /// Runs a command. Dropping what this returns ends the process with its group.
    ///
    /// # Errors
    /// When the guest cannot be reached or refuses.
    pub async fn run(&self, command: Command, stdin: bool) -> Result<Live, ServiceError> {
        self.start(Start { config: exec::config(command), tag: None, terminal: None, stdin, detach: false }).await
    }

    /// Starts a session in a terminal. It goes on when what this returns is dropped.
    ///
    /// # Errors
    /// When the guest cannot be reached or refuses.
    pub async fn open_terminal(&self, command: Command, tag: ProcessTag, size: Size) -> Result<Live, ServiceError> {
        let Command { cmd, args, envs, cwd, user } = command;
        // Unlike elsewhere the user's own shell is asked to run a line, and is what runs when there is none.
        let config = ProcessConfig { cmd, args, envs: envs.into_iter().collect(), cwd, user, ..Default::default() };
        self.start(Start { config, tag: Some(tag), terminal: Some(size), stdin: true, detach: true }).await
    }

    async fn start(&self, start: Start) -> Result<Live, ServiceError> {
        let begin = async {
            let mut stream = self.guest.start(start).await.map_err(exec::start_error)?;
            let pid = exec::pid_of(&mut stream).await?;
            Ok(Live { stream, pid })
        };
        let begun = tokio::time::timeout(PROCESS_START_MAX, Box::pin(begin)).await;
        begun.map_err(|_| guest_error(FleetError::TimedOut))?
    }

    /// Attaches to a process that runs or ended a moment ago. Dropping what this returns leaves the process alone.
    ///
    /// # Errors
    /// When the guest cannot be reached or refuses.
    pub async fn attach(&self, selector: &Selector) -> Result<Live, ServiceError> {
        let begin = async {
            let mut stream = self.guest.connect(selector).await?;
            match stream.next().await? {
                Some(ProcessEvent::Started { pid }) => Ok(Live { stream, pid }),
                _ => Err(FleetError::Nonsense("the first event is not the start".to_owned())),
            }
        };
        let begun = tokio::time::timeout(PROCESS_START_MAX, Box::pin(begin)).await.unwrap_or(Err(FleetError::TimedOut));
        begun.map_err(|error| match error {
            FleetError::Answered { code: ErrorCode::ResourceExhausted, .. } => {
                ServiceError::Busy("this process has as many readers as it can; close some first".to_owned())
            }
            other => guest_error(other),
        })
    }

    /// Feeds a process from a stream, as fast as it reads, and returns when it took all of it. A process that is over is no
    /// failure: what it printed and how it ended tells the story.
    ///
    /// # Errors
    /// When the guest cannot be reached or refuses.
    pub async fn feed<S>(&self, pid: u32, kind: InputKind, bytes: S) -> Result<Fed, ServiceError>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        match Box::pin(self.guest.stream_input(pid, kind, bytes)).await {
            Ok(()) | Err(FleetError::Answered { code: ErrorCode::NotFound, .. }) => Ok(Fed::All),
            Err(FleetError::Relay(RelayError::Busy)) => Ok(Fed::Nothing),
            Err(error) => Err(guest_error(error)),
        }
    }

    /// No more input for a process.
    ///
    /// # Errors
    /// When the guest cannot be reached or refuses.
    pub async fn close_input(&self, pid: u32) -> Result<(), ServiceError> {
        unless_over(Box::pin(self.guest.close_stdin(pid)).await)
    }

    /// Resizes a process's terminal.
    ///
    /// # Errors
    /// When the guest cannot be reached or refuses.
    pub async fn resize(&self, pid: u32, size: Size) -> Result<(), ServiceError> {
        unless_over(Box::pin(self.guest.resize(pid, size)).await)
    }

    /// Kills a process and its group.
    ///
    /// # Errors
    /// When the guest cannot be reached or refuses.
    pub async fn kill(&self, pid: u32) -> Result<(), ServiceError> {
        unless_over(Box::pin(self.guest.signal(&Selector::Pid(pid), Signal::Sigkill)).await)
    }
}

fn unless_over(done: Result<(), FleetError>) -> Result<(), ServiceError> {
    match done {
        Ok(()) | Err(FleetError::Answered { code: ErrorCode::NotFound, .. }) => Ok(()),
        Err(error) => Err(guest_error(error)),
    }
}
