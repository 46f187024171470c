//! One caller's stream of events: start, output, end, and a sign of life when there is nothing to say.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::ConnectError;
use futures::Stream;
use tokio::time::Instant;
use wrenn_contract::proto::process::__buffa::oneof::process_event::data_event::Output as Bytes;
use wrenn_contract::proto::process::ProcessEvent;
use wrenn_contract::proto::process::process_event::{DataEvent, EndEvent, KeepAlive, StartEvent};
use wrenn_linux::child::Exit;

use super::output::{End, From, Piece, ReaderId, Source};
use super::running::{Leash, Process};

/// See the module.
#[derive(Debug)]
pub struct Reader {
    process: Arc<Process>,
    id: ReaderId,
    stage: Stage,
    /// Whether the reader must still hear that it got all there was when it came: with a sign of life, which every client knows.
    behind: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Output,
    Over,
}

/// How a stream is to run.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// When the caller stops listening.
    pub deadline: Option<Instant>,
    /// Silence before a sign of life.
    pub keepalive: Duration,
}

impl Reader {
    /// A reader of this process; none when it has too many.
    pub fn attach(process: &Arc<Process>, from: From) -> Option<Self> {
        let id = process.output.attach(from)?;
        Some(Self { process: process.clone(), id, stage: Stage::Start, behind: from == From::Recent })
    }

    /// The events to the end. Dropping the stream drops the leash.
    pub fn into_stream(
        self,
        terms: Terms,
        leash: Option<Leash>,
    ) -> impl Stream<Item = Result<ProcessEvent, ConnectError>> + Send + 'static {
        futures::stream::unfold((self, leash), move |(mut reader, leash)| async move {
            let event = reader.next(terms).await?;
            Some((event, (reader, leash)))
        })
    }

    async fn next(&mut self, terms: Terms) -> Option<Result<ProcessEvent, ConnectError>> {
        match self.stage {
            Stage::Start => {
                self.stage = Stage::Output;
                return Some(Ok(StartEvent { pid: self.process.pid, ..Default::default() }.into_event()));
            }
            Stage::Output => {}
            Stage::Over => return None,
        }
        let quiet_until = Instant::now() + terms.keepalive;
        loop {
            if terms.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.stage = Stage::Over;
                return Some(Err(ConnectError::deadline_exceeded("the process took longer than the call may")));
            }
            let mut news = std::pin::pin!(self.process.output.news());
            // Before looking, so that what comes while we look rings too.
            news.as_mut().enable();
            match self.process.output.take(&self.id) {
                Piece::Data(source, bytes) => return Some(Ok(data_event(source, bytes))),
                Piece::End(end) => {
                    self.stage = Stage::Over;
                    return Some(Ok(end_event(end).into_event()));
                }
                Piece::Nothing if std::mem::take(&mut self.behind) => {
                    return Some(Ok(KeepAlive::default().into_event()));
                }
                Piece::Nothing => {}
            }
            tokio::select! {
                // News first: they make both waits pointless.
                biased;
                () = news => {}
                () = tokio::time::sleep_until(terms.deadline.unwrap_or(quiet_until)), if terms.deadline.is_some() => {}
                () = tokio::time::sleep_until(quiet_until) => return Some(Ok(KeepAlive::default().into_event())),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.process.output.detach(&self.id);
    }
}

trait IntoEvent {
    fn into_event(self) -> ProcessEvent;
}

impl<T> IntoEvent for T
where
    Option<wrenn_contract::proto::process::__buffa::oneof::process_event::Event>: std::convert::From<T>,
{
    fn into_event(self) -> ProcessEvent {
        ProcessEvent { event: self.into(), ..Default::default() }
    }
}

fn data_event(source: Source, bytes: Vec<u8>) -> ProcessEvent {
    let output = match source {
        Source::Stdout => Bytes::Stdout(bytes),
        Source::Stderr => Bytes::Stderr(bytes),
        Source::Terminal => Bytes::Pty(bytes),
    };
    DataEvent { output: Some(output), ..Default::default() }.into_event()
}

fn end_event(end: End) -> EndEvent {
    match end {
        Ok(exit @ Exit::Code(code)) => {
            EndEvent { exit_code: code, exited: true, status: exit.to_string(), ..Default::default() }
        }
        Ok(exit @ Exit::Signal { number, .. }) => EndEvent {
            exit_code: -1,
            exited: false,
            status: exit.to_string(),
            signal: u32::try_from(number).ok(),
            ..Default::default()
        },
        Err(error) => EndEvent {
            exit_code: -1,
            exited: false,
            status: "unknown".to_owned(),
            error: Some(error),
            ..Default::default()
        },
    }
}
