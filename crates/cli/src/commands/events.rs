//! `wrenn events`: what happens to the team's capsules, while it happens.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use wrenn_contract::rest::events::EventFrame;

use crate::api::{ApiError, Client, EventStream, Told};
use crate::output::{Output, plain};

/// Pauses before the stream is opened again after it broke.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on until interrupted; connects again when the connection breaks, and misses nothing. The default without --since.
    #[arg(long, short = 'f')]
    follow: bool,
    /// Begin with the events after this one, evt- and 25 characters.
    #[arg(long, value_name = "ID", value_parser = event_id)]
    since: Option<String>,
}

fn event_id(text: &str) -> Result<String, String> {
    text.parse::<wrenn_domain::ids::EventId>()
        .map(|id| id.to_string())
        .map_err(|error| format!("{error}; `wrenn --json events` shows the ids"))
}

/// Prints events, one line each; with --json each as the server sent it.
pub async fn run(args: EventsArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let follow = args.follow || args.since.is_none();
    let mut last = args.since;
    let mut pause = PAUSE_MIN;
    let mut opened = false;
    loop {
        let stream = EventStream::open(client, last.as_deref()).await;
        let mut stream = match stream {
            Ok(stream) => stream,
            // A refusal does not become right by asking again; a server that is away may come back.
            Err(error) if !opened || !may_pass(&error) => return Err(error.into()),
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        opened = true;
        loop {
            match stream.next().await? {
                Told::Frame { json, frame } => {
                    pause = PAUSE_MIN;
                    if frame.metadata.get("gap").is_some_and(|gap| gap == "true") {
                        output.note("some events since then are not kept any more");
                    }
                    if frame.message.is_some() {
                        continue;
                    }
                    if !print(&json, &frame, output) {
                        return Ok(0);
                    }
                    if frame.id.is_some() {
                        last.clone_from(&frame.id);
                    }
                }
                Told::CaughtUp if !follow => return Ok(0),
                Told::CaughtUp | Told::Unknown => {}
                Told::End => break,
            }
        }
        if last.is_none() {
            output.note("the connection broke before any event; what happened meanwhile is not shown");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn may_pass(error: &ApiError) -> bool {
    match error {
        ApiError::Unreachable { .. } | ApiError::Broken { .. } => true,
        ApiError::Refused { status, .. } => *status == 429 || *status >= 500,
        _ => false,
    }
}

/// False when nobody reads any more.
fn print(json: &str, frame: &EventFrame, output: &Output) -> bool {
    let line = if output.is_json() { json.to_owned() } else { line(frame) };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

fn line(frame: &EventFrame) -> String {
    let mut words = vec![frame.timestamp.format("%Y-%m-%d %H:%M:%SZ").to_string(), frame.event.as_str().to_owned()];
    words.extend(frame.outcome.clone());
    words.extend(frame.resource.as_ref().map(|resource| plain(&resource.id)));
    match (frame.metadata.get("from"), frame.metadata.get("to")) {
        (Some(from), Some(to)) if from.is_empty() => words.push(plain(to)),
        (Some(from), Some(to)) => words.push(plain(&format!("{from} -> {to}"))),
        _ => words.extend(frame.metadata.get("reason").map(|reason| plain(reason))),
    }
    if let Some(actor) = &frame.actor {
        words.push(format!("by {}", plain(if actor.name.is_empty() { &actor.kind } else { &actor.name })));
    }
    words.extend(frame.error.as_ref().map(|error| plain(&format!("({error})"))));
    words.join("  ")
}
