//! `wrenn shell ID`: a terminal in a capsule as if it were this one.
//!
//! Every byte passes unchanged both ways. The session lives in the capsule: a connection that breaks is made again, and
//! `--tag` goes back to a session from anywhere. This machine's terminal is put back as it was on every way out.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use terminal_size::{Height, Width, terminal_size};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use wrenn_contract::rest::processes::{PtyClientFrame, PtyEncoding};

use super::exec::{exit_code, variable, write};
use super::{capsule_id, process_name};
use crate::api::{ApiError, Client, PtyEvent, PtyEvents, PtyInput, open_pty};
use crate::output::{Output, plain};

/// Tries to reach a session again after its connection broke.
const TRIES_MAX: u32 = 12;
/// First pause between two tries; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// Time to leave in good order.
const LEAVE_MAX: Duration = Duration::from_secs(3);
/// Bytes of keystrokes read at once, and reads that wait to be sent.
const KEYS_CHUNK: usize = 64 * 1024;
const KEYS_WAITING: usize = 8;
/// What a terminal sends for "no more input" (Ctrl-D).
const END_OF_INPUT: &[u8] = &[4];
/// Said once per broken connection, to whoever sits there.
const BROKE: &str = "wrenn: the connection broke; making it again, what you type meanwhile is kept";
/// Cursor to the corner, screen empty: recent output is about to come again.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

/// Open a terminal in a capsule.
///
/// Without a command: the user's login shell. The session lives in the capsule and goes on when the connection breaks (it is made again) or
/// when you leave it: type ~. at the beginning of a line. ~~ there sends one ~. `wrenn shell ID --tag TAG` goes back.
/// The exit code is the session's.
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// Capsule to open it in.
    #[arg(value_parser = capsule_id)]
    id: String,
    /// Go back to the session with this tag.
    #[arg(long, value_name = "TAG", value_parser = process_name, conflicts_with_all = ["env", "workdir", "user", "command"])]
    tag: Option<String>,
    /// Environment variable, KEY=VALUE; may be repeated. TERM is this terminal's.
    #[arg(long, short = 'e', value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Working directory; the user's home when absent.
    #[arg(long, short = 'w', value_name = "DIR")]
    workdir: Option<String>,
    /// Guest user; the template's default user when absent.
    #[arg(long, short = 'u', value_name = "NAME")]
    user: Option<String>,
    /// Command and arguments instead of a shell.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// How a stay on one connection ended.
enum Stay {
    /// The session ended.
    Over(u8),
    /// The user left it.
    Left,
    /// A signal told this program to end.
    Signalled(u8),
    /// The connection broke.
    Lost,
}

/// Opens the terminal; the number is the session's exit code.
pub async fn run(args: ShellArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    if output.is_json() {
        bail!("a terminal has no JSON form; `wrenn exec` has");
    }
    let raw = std::io::stdin().is_terminal().then(Raw::enter).transpose()?;
    let mut here = Here {
        keys: read_keys(),
        unsent: None,
        ended: false,
        escape: raw.is_some().then(Escape::default),
        resized: signal(SignalKind::window_change()).context("cannot watch the window's size")?,
        ends: Ends::watch()?,
        tag: args.tag.clone(),
    };
    let mut first = first_frame(args.tag, args.env, args.workdir, args.user, args.command);
    let (mut tries, mut pause, mut reached) = (0, PAUSE_MIN, false);
    let stay = loop {
        match open_pty(client, &args.id, &first).await {
            Ok((input, events)) => {
                let (stay, came_in) = here.stay(input, events, tries > 0).await?;
                if !matches!(stay, Stay::Lost) {
                    break stay;
                }
                if came_in {
                    (tries, pause, reached) = (0, PAUSE_MIN, true);
                    if raw.is_some() {
                        eprint!("\r\n{BROKE}\r\n");
                    }
                }
            }
            // Only what may pass is tried again, and only for a session that was there.
            Err(ApiError::Unreachable { .. } | ApiError::Broken { .. }) if reached => {}
            Err(error) if reached && error.status().is_some_and(|status| status >= 500) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(tag) = here.tag.as_ref().filter(|_| reached) else {
            bail!("the connection broke before the session was there; try again")
        };
        if tries == TRIES_MAX {
            drop(raw);
            bail!("the connection broke and {TRIES_MAX} tries did not bring it back; {}", way_back(&args.id, tag));
        }
        tries += 1;
        first = PtyClientFrame::Connect { tag: tag.clone(), encoding: PtyEncoding::Binary };
        tokio::select! {
            // A wish to end first: nobody should wait for the pause.
            biased;
            code = here.ends.next() => break Stay::Signalled(code),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (2 * pause).min(PAUSE_MAX);
    };
    drop(raw);
    let goes_on = |why: &str| {
        if let Some(tag) = &here.tag {
            output.note(&format!("\n{why}; {}", way_back(&args.id, tag)));
        }
    };
    Ok(match stay {
        Stay::Over(code) => code,
        Stay::Left | Stay::Lost => {
            goes_on("Left. The session goes on");
            0
        }
        Stay::Signalled(code) => {
            goes_on("Ended by a signal. The session goes on");
            code
        }
    })
}

fn way_back(id: &str, tag: &str) -> String {
    format!("`wrenn shell {id} --tag {}` goes back", plain(tag))
}

fn first_frame(
    tag: Option<String>,
    env: Vec<(String, String)>,
    workdir: Option<String>,
    user: Option<String>,
    command: Vec<String>,
) -> PtyClientFrame {
    if let Some(tag) = tag {
        return PtyClientFrame::Connect { tag, encoding: PtyEncoding::Binary };
    }
    let (cols, rows) = size().unwrap_or((0, 0));
    let mut envs: BTreeMap<String, String> =
        std::env::var("TERM").ok().map(|term| ("TERM".to_owned(), term)).into_iter().collect();
    envs.extend(env);
    let mut words = command.into_iter();
    PtyClientFrame::Start {
        cmd: words.next(),
        args: words.collect(),
        cols,
        rows,
        envs,
        cwd: workdir,
        user,
        encoding: PtyEncoding::Binary,
    }
}

fn size() -> Option<(u32, u32)> {
    terminal_size().map(|(Width(cols), Height(rows))| (cols.into(), rows.into()))
}

/// This side of the session. Outlives its connections.
struct Here {
    keys: mpsc::Receiver<Bytes>,
    /// Keystrokes that could not be sent.
    unsent: Option<Bytes>,
    /// There will be no more of them.
    ended: bool,
    /// Where the user types, who may want to leave.
    escape: Option<Escape>,
    resized: Signal,
    ends: Ends,
    tag: Option<String>,
}

impl Here {
    /// Stays on one connection; also whether the session was reached.
    async fn stay(&mut self, mut input: PtyInput, mut events: PtyEvents, again: bool) -> anyhow::Result<(Stay, bool)> {
        let tag = match tokio::select! {
            // A wish to end first: the server may never answer.
            biased;
            code = self.ends.next() => return Ok((Stay::Signalled(code), false)),
            event = events.next() => event?,
        } {
            PtyEvent::Started { tag } => tag,
            PtyEvent::Lost => return Ok((Stay::Lost, false)),
            PtyEvent::Error(text) => bail!("{}", plain(&text)),
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
            PtyEvent::Output(bytes) => write(&mut stdout, &bytes).await?,
            PtyEvent::Exit(code) => return Ok(Stay::Over(exit_code(code))),
            PtyEvent::Error(text) => bail!("{}", plain(&text)),
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

/// What cannot be sent to may still have last words: whoever reads them finds out that the connection is lost.
async fn lost() -> Stay {
    tokio::time::sleep(LEAVE_MAX).await;
    Stay::Lost
}

/// Reads what is typed, on a task of its own, so that no key is lost while a connection is made.
fn read_keys() -> mpsc::Receiver<Bytes> {
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
struct Escape {
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
    /// What is to be sent of these keystrokes, and whether the user leaves.
    fn pass(&mut self, typed: &[u8]) -> (Bytes, bool) {
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
struct Ends([(Signal, u8); 3]);

impl Ends {
    fn watch() -> anyhow::Result<Self> {
        let on = |kind: SignalKind| {
            let code = u8::try_from(kind.as_raw_value()).unwrap_or(0) | 0x80;
            Ok::<_, anyhow::Error>((signal(kind).context("cannot watch for signals")?, code))
        };
        Ok(Self([on(SignalKind::terminate())?, on(SignalKind::hangup())?, on(SignalKind::interrupt())?]))
    }

    /// The exit code for the next one.
    async fn next(&mut self) -> u8 {
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
struct Raw(Termios);

impl Raw {
    fn enter() -> anyhow::Result<Self> {
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
