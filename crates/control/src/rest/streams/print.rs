//! A process's two outputs as frames: JSON text, or bytes with a first one that says which.

use axum::extract::ws::Message;
use wrenn_contract::rest::processes::ExecServerFrame;
use wrenn_domain::limits::PROCESS_REPLAY_BYTES;

use super::socket::{End, Session};
use super::text::Utf8Carry;
use crate::service::streams::{Live, ProcessEvent};

/// Which form the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Binary,
}

/// How long output is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    End,
    /// Until all that was printed before has come.
    CaughtUp,
}

#[derive(Debug, Clone, Copy)]
enum From {
    Stdout,
    Stderr,
}

/// Sends what a process prints, to its end and with its exit.
pub(super) async fn print(session: &Session<'_>, form: Form, mut live: Live, until: Until) -> Result<(), End> {
    let mut printer = Printer { session, form, stdout: Utf8Carry::default(), stderr: Utf8Carry::default() };
    session.out.json(&ExecServerFrame::Start { pid: live.pid() }).await?;
    let mut sent = 0;
    loop {
        // What prints without a pause is never quiet, but more than this cannot have been there before.
        if until == Until::CaughtUp && sent >= PROCESS_REPLAY_BYTES {
            return printer.flush().await;
        }
        match live.next().await? {
            ProcessEvent::Started { .. } => {}
            ProcessEvent::Stdout(bytes) => {
                sent += bytes.len();
                printer.bytes(From::Stdout, bytes).await?;
            }
            ProcessEvent::Stderr(bytes) => {
                sent += bytes.len();
                printer.bytes(From::Stderr, bytes).await?;
            }
            ProcessEvent::Quiet if until == Until::CaughtUp => return printer.flush().await,
            ProcessEvent::Quiet => {}
            ProcessEvent::Ended(ended) => {
                printer.flush().await?;
                return session.out.json(&ExecServerFrame::Exit { exit_code: ended.exit_code }).await;
            }
        }
    }
}

struct Printer<'a> {
    session: &'a Session<'a>,
    form: Form,
    stdout: Utf8Carry,
    stderr: Utf8Carry,
}

impl Printer<'_> {
    async fn bytes(&mut self, from: From, bytes: Vec<u8>) -> Result<(), End> {
        self.session.active();
        match (self.form, from) {
            (Form::Binary, from) => {
                let mut frame = Vec::with_capacity(bytes.len() + 1);
                frame.push(match from {
                    From::Stdout => 1,
                    From::Stderr => 2,
                });
                frame.extend_from_slice(&bytes);
                self.session.out.send(Message::Binary(frame.into())).await
            }
            (Form::Text, From::Stdout) => {
                let data = self.stdout.take(bytes);
                self.text(From::Stdout, data).await
            }
            (Form::Text, From::Stderr) => {
                let data = self.stderr.take(bytes);
                self.text(From::Stderr, data).await
            }
        }
    }

    /// Sends what unfinished characters left behind.
    async fn flush(&mut self) -> Result<(), End> {
        let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
        self.text(From::Stdout, stdout).await?;
        self.text(From::Stderr, stderr).await
    }

    async fn text(&self, from: From, data: String) -> Result<(), End> {
        if data.is_empty() {
            return Ok(());
        }
        let frame = match from {
            From::Stdout => ExecServerFrame::Stdout { data },
            From::Stderr => ExecServerFrame::Stderr { data },
        };
        self.session.out.json(&frame).await
    }
}
