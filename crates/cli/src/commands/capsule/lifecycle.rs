//! `wrenn capsule pause|resume|snapshot|fork`: each asks, and waits until it is done or did not work.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use futures::stream;
use wrenn_contract::rest::capsules::{Capsule, CapsuleStatus, ForkCapsule, ForkResult, ResumeCapsule};
use wrenn_contract::rest::snapshots::{CreateSnapshot, Template};
use wrenn_domain::limits::CAPTURE_CALL_MAX;

use super::show::word;
use super::wait::{ASK_EVERY, get, wait_running};
use crate::api::Client;
use crate::output::{Output, plain};

/// Bound of every wait here: as long as a host may take to write a large memory down.
const CHANGE_WAIT: Duration = CAPTURE_CALL_MAX;
/// Capsules that are asked about at once.
const AT_ONCE: usize = 16;

/// A change of state that a command asks for and waits for.
#[derive(Debug, Clone, Copy)]
struct Change {
    verb: &'static str,
    doing: &'static str,
    on_its_way: CapsuleStatus,
    done: CapsuleStatus,
}

const PAUSE: Change =
    Change { verb: "pause", doing: "pausing", on_its_way: CapsuleStatus::Pausing, done: CapsuleStatus::Paused };
const RESUME: Change =
    Change { verb: "resume", doing: "resuming", on_its_way: CapsuleStatus::Resuming, done: CapsuleStatus::Running };

/// Where a change stands.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Done,
    OnItsWay,
    Failed(String),
}

impl Change {
    fn standing(&self, capsule: &Capsule) -> Standing {
        if capsule.status == self.done {
            return Standing::Done;
        }
        if capsule.status == self.on_its_way {
            return Standing::OnItsWay;
        }
        Standing::Failed(match &capsule.error {
            Some(reason) => format!("it is {}: {}", word(capsule.status), plain(reason)),
            None => format!("it is {}", word(capsule.status)),
        })
    }
}

pub(super) async fn pause(ids: &[String], no_wait: bool, client: &Client, output: &Output) -> anyhow::Result<u8> {
    change_all(PAUSE, &serde_json::json!({}), ids, no_wait, client, output).await
}

pub(super) async fn resume(
    ids: &[String],
    timeout: Option<i64>,
    no_wait: bool,
    client: &Client,
    output: &Output,
) -> anyhow::Result<u8> {
    let body = serde_json::to_value(ResumeCapsule { timeout_sec: timeout })?;
    change_all(RESUME, &body, ids, no_wait, client, output).await
}

/// Asks for all, some at once, and tells of each in the order given. One that fails does not hold up the others.
async fn change_all(
    change: Change,
    body: &serde_json::Value,
    ids: &[String],
    no_wait: bool,
    client: &Client,
    output: &Output,
) -> anyhow::Result<u8> {
    let spinner = output.spinner(&match ids {
        [id] => format!("{} {id}", change.doing),
        _ => format!("{} {} capsules", change.doing, ids.len()),
    });
    let mut changes = stream::iter(ids)
        .map(|id| async move { (id, change_one(change, body, id, no_wait, client).await) })
        .buffered(AT_ONCE);
    let mut failed = 0;
    while let Some((id, changed)) = changes.next().await {
        spinner.suspend(|| match changed {
            Ok(capsule) => output.result(&capsule, || capsule.id.clone()),
            Err(error) => {
                failed = 1;
                output.failure(&error.context(format!("could not {} {id}", change.verb)));
            }
        });
    }
    spinner.finish_and_clear();
    Ok(failed)
}

async fn change_one(
    change: Change,
    body: &serde_json::Value,
    id: &str,
    no_wait: bool,
    client: &Client,
) -> anyhow::Result<Capsule> {
    let mut capsule: Capsule = client.post(&format!("/v1/capsules/{id}/{}", change.verb), body).await?;
    let deadline = tokio::time::Instant::now() + CHANGE_WAIT;
    loop {
        match change.standing(&capsule) {
            Standing::Done => return Ok(capsule),
            Standing::OnItsWay if no_wait => return Ok(capsule),
            Standing::OnItsWay => {}
            Standing::Failed(reason) => bail!(reason),
        }
        if tokio::time::Instant::now() >= deadline {
            bail!(
                "still {} after {} s; its host may be away. Look again with `wrenn capsule get {id}`",
                change.doing,
                CHANGE_WAIT.as_secs()
            );
        }
        tokio::time::sleep(ASK_EVERY).await;
        capsule = get(client, id).await?;
    }
}

pub(super) async fn snapshot(
    id: &str,
    name: Option<String>,
    no_wait: bool,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let name = name.map_or_else(fresh_name, Ok)?;
    let spinner = output.spinner(&format!("capturing {id} as {name}"));
    let request = CreateSnapshot { sandbox_id: id.to_owned(), name: Some(name.clone()) };
    let mut capsule: Capsule = client.post("/v1/snapshots", &request).await?;
    if no_wait {
        spinner.finish_and_clear();
        output.result(&capsule, || name);
        return Ok(());
    }
    let deadline = tokio::time::Instant::now() + CHANGE_WAIT;
    while capsule.status == CapsuleStatus::Snapshotting {
        if tokio::time::Instant::now() >= deadline {
            bail!(
                "still snapshotting after {} s; its host may be away. Look again with `wrenn template list`",
                CHANGE_WAIT.as_secs()
            );
        }
        tokio::time::sleep(ASK_EVERY).await;
        capsule = get(client, id).await?;
    }
    let templates: Vec<Template> = client.get("/v1/snapshots?type=snapshot").await?;
    spinner.finish_and_clear();
    let Some(template) = templates.into_iter().find(|template| template.name == name) else {
        let reason = capsule
            .error
            .as_deref()
            .map_or_else(|| format!("the capsule is {}, and there is no template {name}", word(capsule.status)), plain);
        bail!("could not capture {id}: {reason}");
    };
    output.result(&template, || template.name.clone());
    Ok(())
}

/// Chosen here and not by the server, so that it can be told.
fn fresh_name() -> anyhow::Result<String> {
    let mut random = [0u8; 4];
    getrandom::fill(&mut random).context("no random numbers to be had")?;
    Ok(format!("template-{}", hex::encode(random)))
}

pub(super) async fn fork(id: &str, count: u32, no_wait: bool, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let spinner = output.spinner(&format!("forking {id}"));
    let request = ForkCapsule { count: Some(i64::from(count)) };
    let results: Vec<ForkResult> = client.post(&format!("/v1/capsules/{id}/fork"), &request).await?;
    spinner.set_message(format!("starting {} children", results.len()));
    let mut waits = stream::iter(results).map(|result| child(result, no_wait, client)).buffered(AT_ONCE);
    let (mut made, mut failures) = (Vec::new(), Vec::new());
    let mut results = Vec::new();
    while let Some((result, failure)) = waits.next().await {
        made.extend(result.capsule.as_ref().filter(|_| failure.is_none()).map(|capsule| capsule.id.clone()));
        failures.extend(failure);
        results.push(result);
    }
    spinner.finish_and_clear();
    if output.is_json() || !made.is_empty() {
        output.result(&results, || made.join("\n"));
    }
    for error in &failures {
        output.failure(error);
    }
    Ok(u8::from(!failures.is_empty()))
}

/// Waits for one child. Answers what is known of it in the end, and what went wrong.
async fn child(mut result: ForkResult, no_wait: bool, client: &Client) -> (ForkResult, Option<anyhow::Error>) {
    match (result.capsule.take(), &result.error) {
        (Some(capsule), _) if no_wait => {
            result.capsule = Some(capsule);
            (result, None)
        }
        (Some(capsule), _) => match wait_running(client, capsule.clone()).await {
            Ok(running) => {
                result.capsule = Some(running);
                (result, None)
            }
            Err(error) => {
                result.capsule = Some(get(client, &capsule.id).await.unwrap_or(capsule));
                (result, Some(error))
            }
        },
        (None, Some(error)) => {
            let error = anyhow::anyhow!("a child was not made: {} ({})", plain(&error.message), error.code.as_str());
            (result, Some(error))
        }
        (None, None) => (result, Some(anyhow::anyhow!("the control plane said nothing of a child"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capsule(status: CapsuleStatus, error: Option<&str>) -> Capsule {
        let mut json = serde_json::json!({
            "id": "cl-0", "status": "running", "template": "minimal", "vcpus": 1, "memory_mb": 512, "timeout_sec": 0,
            "disk_size_mb": 64, "created_at": "2026-01-01T00:00:00Z", "last_updated": "2026-01-01T00:00:00Z",
        });
        json["error"] = serde_json::json!(error);
        let mut capsule: Capsule = serde_json::from_value(json).expect("a capsule");
        capsule.status = status;
        capsule
    }

    #[test]
    fn a_pause_that_fell_back_to_running_has_failed_and_says_why() {
        use CapsuleStatus as S;
        let fell_back = capsule(S::Running, Some("no room\u{1b}"));
        assert_eq!(PAUSE.standing(&fell_back), Standing::Failed("it is running: no room?".to_owned()));
        assert_eq!(PAUSE.standing(&capsule(S::Pausing, None)), Standing::OnItsWay);
        assert_eq!(PAUSE.standing(&capsule(S::Paused, None)), Standing::Done);
        assert_eq!(RESUME.standing(&capsule(S::Running, None)), Standing::Done);
        assert_eq!(RESUME.standing(&capsule(S::Resuming, None)), Standing::OnItsWay);
        assert_eq!(RESUME.standing(&capsule(S::Missing, None)), Standing::Failed("it is missing".to_owned()));
    }

    #[test]
    fn a_fresh_name_is_a_valid_one_and_never_the_same() {
        let (one, two) = (fresh_name().expect("a name"), fresh_name().expect("a name"));
        assert!(one != two && one.parse::<wrenn_domain::names::TemplateName>().is_ok() && one.len() == 17, "{one}");
    }
}
