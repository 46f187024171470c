//! The way into a process: its standard input or terminal, fed by one call after the other.
//!
//! Must never: interleave two calls' bytes, or hold more waiting calls than `PROCESS_INPUT_CALLS_MAX`; beside them waits at most one
//! piece of each longer input.

use std::io;
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use wrenn_domain::limits::PROCESS_INPUT_CALLS_MAX;
use wrenn_linux::stream::Stream;

/// Kind of input a process reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pipe,
    Terminal,
    /// `/dev/null`.
    Nothing,
}

/// Why a process could not be fed.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("the process has ended")]
    Ended,
    #[error("the process was started without standard input")]
    Nothing,
    #[error("standard input is closed")]
    Closed,
    #[error("the process has closed its standard input")]
    ClosedByProcess,
    #[error("the process has a terminal: send its input as pty")]
    IsTerminal,
    #[error("the process has no terminal: send its input as stdin")]
    NoTerminal,
    #[error("a terminal's input cannot be closed; send the byte 4 (Ctrl-D)")]
    CannotClose,
    #[error("too many calls wait to feed this process")]
    Busy,
    #[error("could not write to the process")]
    Write(#[source] io::Error),
}

/// See the module.
#[derive(Debug)]
pub struct Input {
    kind: Kind,
    /// Calls take turns in the order they came.
    stream: Mutex<Option<Arc<Stream>>>,
    permits: Semaphore,
    ended: CancellationToken,
}

impl Input {
    /// `stream` is our end; none for [`Kind::Nothing`].
    pub fn new(kind: Kind, stream: Option<Arc<Stream>>) -> Self {
        Self {
            kind,
            stream: Mutex::new(stream),
            permits: Semaphore::new(PROCESS_INPUT_CALLS_MAX),
            ended: CancellationToken::new(),
        }
    }

    /// Writes all bytes; waits for as long as the process takes to read what is before them.
    ///
    /// # Errors
    /// See [`InputError`]. A part may have been written, but nothing when it was [`InputError::Busy`].
    pub async fn write(&self, kind: Kind, bytes: &[u8]) -> Result<(), InputError> {
        let _permit = self.permits.try_acquire().map_err(|_| InputError::Busy)?;
        self.write_in_turn(kind, bytes).await
    }

    /// Writes a piece of a longer input, whose sender could not tell where to go on: it waits for its turn.
    ///
    /// # Errors
    /// See [`InputError`].
    pub async fn write_on(&self, kind: Kind, bytes: &[u8]) -> Result<(), InputError> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Err(InputError::Ended),
            permit = self.permits.acquire() => {
                let _permit = permit.map_err(|_| InputError::Ended)?;
                self.write_in_turn(kind, bytes).await
            }
        }
    }

    async fn write_in_turn(&self, kind: Kind, bytes: &[u8]) -> Result<(), InputError> {
        match (self.kind, kind) {
            (Kind::Nothing, _) => return Err(InputError::Nothing),
            (Kind::Pipe, Kind::Pipe) | (Kind::Terminal, Kind::Terminal) => {}
            (Kind::Terminal, _) => return Err(InputError::IsTerminal),
            (Kind::Pipe, _) => return Err(InputError::NoTerminal),
        }
        self.in_turn(async |stream| {
            let Some(open) = stream.as_ref() else { return Err(InputError::Closed) };
            match open.write_all(bytes).await {
                Ok(()) => Ok(()),
                Err(error) if matches!(error.raw_os_error(), Some(nix::libc::EPIPE | nix::libc::EIO)) => {
                    *stream = None;
                    Err(InputError::ClosedByProcess)
                }
                Err(error) => Err(InputError::Write(error)),
            }
        })
        .await
    }

    /// The process will read the end of file after what was written before. Closing twice is no error.
    ///
    /// # Errors
    /// [`InputError::CannotClose`] on a terminal.
    pub async fn close(&self) -> Result<(), InputError> {
        match self.kind {
            Kind::Terminal => return Err(InputError::CannotClose),
            Kind::Nothing => return Ok(()),
            Kind::Pipe => {}
        }
        let _permit = self.permits.try_acquire().map_err(|_| InputError::Busy)?;
        self.in_turn(async |stream| {
            *stream = None;
            Ok(())
        })
        .await
    }

    /// The process is gone: whoever waits is told, and our end is closed.
    pub async fn end(&self) {
        self.ended.cancel();
        *self.stream.lock().await = None;
    }

    async fn in_turn(
        &self,
        act: impl AsyncFnOnce(&mut Option<Arc<Stream>>) -> Result<(), InputError>,
    ) -> Result<(), InputError> {
        tokio::select! {
            // The end first: a pipe nobody reads any more may still take bytes.
            biased;
            () = self.ended.cancelled() => Err(InputError::Ended),
            done = async { act(&mut *self.stream.lock().await).await } => done,
        }
    }
}
