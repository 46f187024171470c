//! The terminal of this machine: its mode, its keys, its size, and the signals that end a session here.

use anyhow::Context;
use bytes::Bytes;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use terminal_size::{Height, Width, terminal_size};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Bytes of keystrokes read at once, and reads that wait to be sent.
const KEYS_CHUNK: usize = 64 * 1024;
const KEYS_WAITING: usize = 8;

/// Columns and rows of this terminal, if there is one.
pub fn size() -> Option<(u32, u32)> {
    terminal_size().map(|(Width(cols), Height(rows))| (cols.into(), rows.into()))
}

/// Reads what is typed, on a task of its own, so that no key is lost while a connection is made.
pub fn read_keys() -> mpsc::Receiver<Bytes> {
    let (to, keys) = mpsc::channel(KEYS_WAITING);
    tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; KEYS_CHUNK];
        loop {
            match stdin.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) if to.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() => return,
                Ok(_) => {}
            }
        }
    });
    keys
}

/// Finds `~.` at the beginning of a line.
#[derive(Debug)]
pub struct Escape {
    at_start: bool,
    /// A `~` at the beginning of a line was typed and not yet sent.
    held: bool,
}

impl Default for Escape {
    fn default() -> Self {
        Self { at_start: true, held: false }
    }
}

impl Escape {
    /// Filters keystrokes: answers those to send, and whether the user leaves.
    pub fn pass(&mut self, typed: &[u8]) -> (Bytes, bool) {
        let mut out = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            if std::mem::take(&mut self.held) {
                match byte {
                    b'.' => return (out.into(), true),
                    b'~' => {
                        out.push(b'~');
                        self.at_start = false;
                        continue;
                    }
                    _ => out.push(b'~'),
                }
            } else if self.at_start && byte == b'~' {
                self.held = true;
                continue;
            }
            out.push(byte);
            self.at_start = matches!(byte, b'\r' | b'\n');
        }
        (out.into(), false)
    }
}

/// Signals that end this program. The terminal must be put back before.
pub struct Ends([(Signal, u8); 3]);

impl Ends {
    /// Begins to listen.
    ///
    /// # Errors
    /// The signals cannot be watched.
    pub fn watch() -> anyhow::Result<Self> {
        let on = |kind: SignalKind| {
            let code = u8::try_from(kind.as_raw_value()).unwrap_or(0) | 0x80;
            Ok::<_, anyhow::Error>((signal(kind).context("cannot watch for signals")?, code))
        };
        Ok(Self([on(SignalKind::terminate())?, on(SignalKind::hangup())?, on(SignalKind::interrupt())?]))
    }

    /// The exit code for the next one.
    pub async fn next(&mut self) -> u8 {
        let [(term, term_code), (hangup, hangup_code), (interrupt, interrupt_code)] = &mut self.0;
        tokio::select! {
            // In any order: each means the same.
            _ = term.recv() => *term_code,
            _ = hangup.recv() => *hangup_code,
            _ = interrupt.recv() => *interrupt_code,
        }
    }
}

/// This terminal passing every key on. Put back as it was when dropped, also by a panic.
pub struct Raw(Termios);

impl Raw {
    /// Makes it raw.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn enter() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("cannot read this terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &raw).context("cannot set this terminal to raw")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing could be done about a failure, and the terminal may be gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_is_found_at_the_beginning_of_a_line_only_and_in_any_pieces() {
        for (typed, sent, leaves) in [
            ("~.", "", true),
            ("ls\r~.rest", "ls\r", true),
            ("a~.", "a~.", false),
            ("~~.", "~.", false),
            ("~x\r", "~x\r", false),
            ("\n~\r~.", "\n~\r", true),
            ("~~\n~~~.", "~\n~~.", false),
        ] {
            for piece in [1, 2, typed.len()] {
                let (mut escape, mut out, mut left) = (Escape::default(), Vec::new(), false);
                for bytes in typed.as_bytes().chunks(piece) {
                    let (pass, leave) = escape.pass(bytes);
                    out.extend_from_slice(&pass);
                    if leave {
                        left = true;
                        break;
                    }
                }
                assert_eq!((String::from_utf8_lossy(&out).as_ref(), left), (sent, leaves), "{typed:?} by {piece}");
            }
        }
    }
}
