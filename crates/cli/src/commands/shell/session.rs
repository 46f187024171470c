//! A stay in a session on one connection: output to this terminal, keys to that one.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use wrenn_contract::rest::processes::PtyClientFrame;

use super::super::exit_codes::exit_code;
use super::terminal::{Ends, Escape, size};
use crate::api::{PtyEvent, PtyEvents, PtyInput};
use crate::output::{plain, write};

/// Time to leave in good order.
const LEAVE_MAX: Duration = Duration::from_secs(3);
/// Byte a terminal sends for "no more input" (Ctrl-D).
const END_OF_INPUT: &[u8] = &[4];
/// Pause before it is sent again, and how often that is before the session is ended: whoever has no input left can do nothing in it.
const END_AGAIN: Duration = Duration::from_millis(300);
const ENDS_MAX: u32 = 20;
/// Cursor to the corner, screen empty: recent output is about to come again.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

/// How a stay on one connection ended.
pub enum Stay {
    /// The session ended.
    Over(u8),
    /// The user left it.
    Left,
    /// A signal told this program to end.
    Signalled(u8),
    /// The connection broke.
    Lost,
    /// The server ended it, and says why.
    Refused(String),
}

/// This side of the session. Outlives its connections.
pub struct Here {
    pub keys: mpsc::Receiver<Bytes>,
    /// Keystrokes that could not be sent.
    pub unsent: Option<Bytes>,
    /// There will be no more of them.
    pub ended: bool,
    /// Where the user types, who may want to leave.
    pub escape: Option<Escape>,
    pub resized: Signal,
    pub ends: Ends,
    pub tag: Option<String>,
}

impl Here {
    /// Stays on one connection; also whether the session was reached.
    ///
    /// # Errors
    /// The server talks nonsense, or standard output cannot be written.
    pub async fn stay(
        &mut self,
        mut input: PtyInput,
        mut events: PtyEvents,
        again: bool,
    ) -> anyhow::Result<(Stay, bool)> {
        let tag = match tokio::select! {
            // A wish to end first: the server may never answer.
            biased;
            code = self.ends.next() => return Ok((Stay::Signalled(code), false)),
            event = events.next() => event?,
        } {
            PtyEvent::Started { tag } => tag,
            PtyEvent::Lost => return Ok((Stay::Lost, false)),
            PtyEvent::Error(text) => return Ok((Stay::Refused(text), false)),
            other => bail!("the server began with something unexpected: {other:?}"),
        };
        self.tag = Some(tag);
        if again && std::io::stdout().is_terminal() {
            write(&mut tokio::io::stdout(), CLEAR).await?;
        }
        // A session that was there has another terminal's size.
        if let Some((cols, rows)) = size() {
            let _ = input.frame(&PtyClientFrame::Resize { cols, rows }).await;
        }
        let stay = tokio::select! {
            // The end of the connection first: keys given to a closed one are lost. None waits for another: a session may
            // print without reading, or read without printing.
            biased;
            shown = show(&mut events) => shown?,
            left = send(&mut input, &mut self.keys, &mut self.unsent, &mut self.ended, self.escape.as_mut(), &mut self.resized) => left,
            code = self.ends.next() => Stay::Signalled(code),
        };
        if matches!(stay, Stay::Left | Stay::Signalled(_)) {
            let _ = tokio::time::timeout(LEAVE_MAX, input.leave()).await;
        }
        Ok((stay, true))
    }
}

async fn show(events: &mut PtyEvents) -> anyhow::Result<Stay> {
    let mut stdout = tokio::io::stdout();
    loop {
        match events.next().await? {
            PtyEvent::Output(bytes) => {
                if let Some(code) = write(&mut stdout, &bytes).await? {
                    return Ok(Stay::Over(code));
                }
            }
            PtyEvent::Exit(code) => return Ok(Stay::Over(exit_code(code))),
            PtyEvent::Error(text) => return Ok(Stay::Refused(text)),
            PtyEvent::Trouble(text) => eprint!("\r\nwrenn: {}\r\n", plain(&text)),
            PtyEvent::Lost => return Ok(Stay::Lost),
            PtyEvent::Started { .. } => {}
        }
    }
}

/// Sends keystrokes and sizes until the user leaves or the connection breaks.
async fn send(
    input: &mut PtyInput,
    keys: &mut mpsc::Receiver<Bytes>,
    unsent: &mut Option<Bytes>,
    ended: &mut bool,
    mut escape: Option<&mut Escape>,
    resized: &mut Signal,
) -> Stay {
    let mut ends = 0;
    loop {
        if let Some(bytes) = unsent.clone() {
            // A connection that closed a moment ago is noticed now, while these keys are still ours.
            tokio::task::yield_now().await;
            if input.bytes(bytes).await.is_err() {
                return lost().await;
            }
            *unsent = None;
        }
        tokio::select! {
            // In any order: both are for the same hands.
            typed = keys.recv(), if !*ended => match typed {
                Some(bytes) => {
                    let (bytes, leave) = escape.as_mut().map_or((bytes.clone(), false), |escape| escape.pass(&bytes));
                    if leave {
                        return Stay::Left;
                    }
                    *unsent = (!bytes.is_empty()).then_some(bytes);
                }
                None => {
                    *ended = true;
                    *unsent = Some(Bytes::from_static(END_OF_INPUT));
                }
            },
            // A program that was not reading yet, or had half a line, has not seen the end.
            () = tokio::time::sleep(END_AGAIN), if *ended => {
                if ends == ENDS_MAX {
                    if input.frame(&PtyClientFrame::Kill).await.is_err() {
                        return lost().await;
                    }
                    std::future::pending::<()>().await;
                }
                ends += 1;
                *unsent = Some(Bytes::from_static(END_OF_INPUT));
            }
            _ = resized.recv() => {
                if let Some((cols, rows)) = size()
                    && input.frame(&PtyClientFrame::Resize { cols, rows }).await.is_err()
                {
                    return lost().await;
                }
            }
        }
    }
}

/// Waits before a connection counts as lost: one that cannot be sent to may still have last words, and their reader finds out first.
async fn lost() -> Stay {
    tokio::time::sleep(LEAVE_MAX).await;
    Stay::Lost
}
