//! `wrenn events`: what happens to the team's capsules, while it happens.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use wrenn_contract::rest::capsules::Capsule;
use wrenn_contract::rest::events::EventFrame;

use super::arguments::capsule_id;
use super::final_state;
use crate::api::{ApiError, Client, EventStream, Message};
use crate::output::{Output, plain};

/// Pauses before the stream is opened again after it broke.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Capsule to follow alone; ends when that is deleted or has crashed. All of the team's when absent.
    #[arg(value_parser = capsule_id)]
    id: Option<String>,
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
///
/// # Errors
/// The server refuses, cannot be reached the first time, or standard output cannot be written.
pub async fn run(args: EventsArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let follow = args.follow || args.since.is_none();
    let about = args.id.as_deref();
    if let (Some(id), None) = (about, &args.since) {
        // One that is not there is told at once.
        let _: Capsule = client.get(&format!("/v1/capsules/{id}")).await?;
    }
    let mut last = args.since;
    let mut pause = PAUSE_MIN;
    let mut opened = false;
    loop {
        let mut stream = match EventStream::open(client, last.as_deref()).await {
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
        // What comes before the stream has caught up may be followed by more, also of a capsule that is gone.
        let mut is_live = last.is_none();
        let mut is_news = is_live;
        loop {
            if is_live
                && is_news
                && let Some(id) = about
                && let Some(end) = final_state::now(client, id).await
            {
                output.note(&format!("{end:#}"));
                return Ok(0);
            }
            is_news = false;
            match stream.next().await? {
                Message::Frame { json, frame } => {
                    pause = PAUSE_MIN;
                    if frame.metadata.get("gap").is_some_and(|gap| gap == "true") {
                        output.note("some events since then are not kept any more");
                    }
                    if frame.message.is_some() {
                        continue;
                    }
                    is_news = about.is_none_or(|id| frame.resource.as_ref().is_some_and(|about| about.id == id));
                    if is_news && !print(&json, &frame, output)? {
                        return Ok(0);
                    }
                    if frame.id.is_some() {
                        last.clone_from(&frame.id);
                    }
                }
                Message::CaughtUp if !follow => return Ok(0),
                Message::CaughtUp => (is_live, is_news) = (true, true),
                Message::Unknown => {}
                Message::End => break,
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

/// Prints one event. False when nobody reads any more, which is no failure.
fn print(json: &str, frame: &EventFrame, output: &Output) -> anyhow::Result<bool> {
    let line = if output.is_json() { json.to_owned() } else { line(frame) };
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("could not write the output here"),
    }
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
