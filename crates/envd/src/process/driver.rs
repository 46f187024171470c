//! The task that follows one process from its start to its end: reads what it prints, notices its exit, ends it when its
//! time is up, and tidies up after it.
//!
//! ```text
//! runs --exit--> pipes drained --end of file, or silence--> over: cgroup back, pid freed, end told
//! ```

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wrenn_domain::limits::{PROCESS_EOF_IDLE_MAX, PROCESS_EOF_WAIT_MAX, PROCESS_PIECE_BYTES};
use wrenn_linux::child::{Child, Exit};
use wrenn_linux::stream::Stream;

use super::Processes;
use super::output::{Allowance, Source};
use super::running::Process;

/// Everything the task owns.
pub struct Driver {
    pub processes: Arc<Processes>,
    pub process: Arc<Process>,
    pub child: Child,
    pub pipes: Pipes,
    /// When the process is killed.
    pub deadline: Option<Instant>,
}

/// Pipes the process prints into; a terminal is one for both.
pub struct Pipes {
    first: Option<(Source, Arc<Stream>)>,
    second: Option<(Source, Arc<Stream>)>,
}

/// The next thing that happened to a process.
enum Event {
    Deadline,
    Exit(Result<Exit, String>),
    Readable(Slot),
    /// A reader came nearer or left.
    Room,
    Silence,
}

#[derive(Clone, Copy)]
enum Slot {
    First,
    Second,
}

impl Driver {
    /// Runs until the process is over.
    pub async fn run(mut self) {
        let exit = self.follow().await;
        let Self { processes, process, child, pipes, .. } = self;
        process.input.end().await;
        let slot = process.over();
        // The name is free before the end is told: who hears of it may start the next one under the same tag.
        processes.table.end(&process);
        child.reap();
        process.output.finish(exit);
        if let Some(slot) = slot {
            processes.ground().cgroups.give_back(slot);
        }
        pipes.leave(&processes);
    }

    /// Returns how the process ended, once its output was read.
    async fn follow(&mut self) -> Result<Exit, String> {
        let mut exit = None;
        let mut waited = Duration::ZERO;
        let mut allowance = Allowance::Usual;
        let mut late = false;
        loop {
            if let Some(exit) = &exit
                && (self.pipes.are_closed() || waited >= PROCESS_EOF_WAIT_MAX)
            {
                return Clone::clone(exit);
            }
            let may_read = self.process.output.has_room(allowance);
            if let Some(exit) = &exit
                && late
                && !may_read
            {
                // Nobody will be told the rest.
                return Clone::clone(exit);
            }
            let began = Instant::now();
            match self.next(exit.is_some(), may_read).await {
                Event::Deadline => {
                    self.deadline = None;
                    late = true;
                    self.process.kill();
                }
                Event::Exit(how) => {
                    exit = Some(how);
                    allowance = Allowance::Last;
                    continue;
                }
                Event::Readable(slot) => self.pipes.pump(slot, &self.process),
                Event::Room => {}
                Event::Silence => waited = PROCESS_EOF_WAIT_MAX,
            }
            // Waiting for a reader is no waiting for those left behind.
            if exit.is_some() && may_read {
                waited += began.elapsed();
            }
        }
    }

    async fn next(&self, exited: bool, may_read: bool) -> Event {
        let readable = |pipe: &Option<(Source, Arc<Stream>)>| {
            let stream = pipe.as_ref().map(|(_, stream)| stream.clone());
            async move {
                match stream {
                    // An error shows again when it is read.
                    Some(stream) => drop(stream.readable().await),
                    None => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            // In no order: with one, a program that floods its output would hide its errors, its end and its deadline.
            () = until(self.deadline) => Event::Deadline,
            exit = self.child.ended(), if !exited => Event::Exit(exit.map_err(|error| error.to_string())),
            () = readable(&self.pipes.first), if may_read => Event::Readable(Slot::First),
            () = readable(&self.pipes.second), if may_read => Event::Readable(Slot::Second),
            () = self.process.output.room(), if !may_read => Event::Room,
            () = tokio::time::sleep(PROCESS_EOF_IDLE_MAX), if exited && may_read => Event::Silence,
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Pipes {
    /// Standard output and error.
    pub fn pair(stdout: Stream, stderr: Stream) -> Self {
        let (stdout, stderr) = (Arc::new(stdout), Arc::new(stderr));
        Self { first: Some((Source::Stdout, stdout)), second: Some((Source::Stderr, stderr)) }
    }

    /// Our side of a terminal.
    pub fn terminal(master: Arc<Stream>) -> Self {
        Self { first: Some((Source::Terminal, master)), second: None }
    }

    fn are_closed(&self) -> bool {
        self.first.is_none() && self.second.is_none()
    }

    fn pump(&mut self, slot: Slot, process: &Process) {
        let pipe = match slot {
            Slot::First => &mut self.first,
            Slot::Second => &mut self.second,
        };
        let Some((source, stream)) = pipe.as_ref() else { return };
        let read = with_buffer(|buffer| {
            let read = stream.try_read(buffer)?;
            if let Some(bytes) = read {
                process.output.append(*source, &buffer[..bytes]);
            }
            Ok(read)
        });
        match read {
            Ok(Some(0)) => *pipe = None,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(pid = process.pid, %error, "output could not be read on");
                *pipe = None;
            }
        }
    }

    /// Programs left behind may still hold the pipes. Closing them would end those programs with their next line, so
    /// what they print is read and dropped, for as many as there are places. A terminal is hung up like any other.
    fn leave(self, processes: &Processes) {
        for (source, stream) in [self.first, self.second].into_iter().flatten() {
            let permit = processes.leftovers.clone().try_acquire_owned();
            if let (Source::Stdout | Source::Stderr, Ok(permit)) = (source, permit) {
                tokio::spawn(async move {
                    while stream.readable().await.is_ok() {
                        if !matches!(with_buffer(|buffer| stream.try_read(buffer)), Ok(None | Some(1..))) {
                            break;
                        }
                    }
                    drop(permit);
                });
            }
        }
    }
}

/// One buffer per thread: one per process would be most of what an idle process costs.
fn with_buffer<T>(read: impl FnOnce(&mut [u8]) -> std::io::Result<T>) -> std::io::Result<T> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(PROCESS_PIECE_BYTES, 0);
        read(buffer)
    })
}
