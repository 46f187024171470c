//! `wrenn shell ID`: a terminal in a capsule as if it were this one.
//!
//! Every byte passes unchanged both ways. The session lives in the capsule: a connection that breaks is made again, and
//! `--tag` goes back to a session from anywhere. This machine's terminal is put back as it was on every way out.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use wrenn_contract::rest::processes::{PtyClientFrame, PtyEncoding};

use super::arguments::{capsule_id, process_name};
use super::command_args::CommandArgs;
use super::ending;
use crate::api::{ApiError, Client, open_pty};
use crate::output::{Output, plain};
use session::{Here, Stay};
use terminal::{Ends, Escape, Raw, read_keys, size};

mod session;
mod terminal;

/// Tries to reach a session again after its connection broke.
const TRIES_MAX: u32 = 12;
/// First pause between two tries; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// Said once per broken connection, to whoever sits there.
const BROKE: &str = "wrenn: the connection broke; making it again, what you type meanwhile is kept";

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
    #[command(flatten)]
    how: CommandArgs,
    /// Command and arguments instead of a shell.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Opens the terminal; the number is the session's exit code.
///
/// # Errors
/// The session cannot be had, or its connection broke and could not be made again.
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
    let mut first = first_frame(args.tag, args.how, args.command);
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
        Stay::Refused(text) => {
            let why = ending::explain(client, &args.id, Some(&text)).await;
            return Err(match &here.tag {
                Some(tag) => why.context(format!("the session was cut; {}", way_back(&args.id, tag))),
                None => why,
            });
        }
    })
}

fn way_back(id: &str, tag: &str) -> String {
    format!("`wrenn shell {id} --tag {}` goes back", plain(tag))
}

fn first_frame(tag: Option<String>, how: CommandArgs, command: Vec<String>) -> PtyClientFrame {
    if let Some(tag) = tag {
        return PtyClientFrame::Connect { tag, encoding: PtyEncoding::Binary };
    }
    let (cols, rows) = size().unwrap_or((0, 0));
    let mut envs: BTreeMap<String, String> =
        std::env::var("TERM").ok().map(|term| ("TERM".to_owned(), term)).into_iter().collect();
    envs.extend(how.envs());
    let mut words = command.into_iter();
    PtyClientFrame::Start {
        cmd: words.next(),
        args: words.collect(),
        cols,
        rows,
        envs,
        cwd: how.workdir,
        user: how.user,
        encoding: PtyEncoding::Binary,
    }
}
