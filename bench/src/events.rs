//! From a change of state to its frame at a reader: every change of real capsules that come and go, by the database's clock.

use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Bench;
use crate::report::{Bound, Report};
use crate::rest::Rest;

/// Bound of the 99th percentile, ms.
const BOUND_MS: f64 = 100.0;
/// Longest wait for the frames of one capsule's life.
const LIFE_MAX: Duration = Duration::from_secs(120);

/// Runs the section.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let lives = bench.runs(60);
    let mut waits = runtime.block_on(measure(bench, lives))?;
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize];
    report.alone("state change to its SSE frame, p50", "ms", at(0.5), None, waits.len());
    report.alone("state change to its SSE frame, p99", "ms", at(0.99), Some(Bound::AtMost(BOUND_MS)), waits.len());
    Ok(())
}

async fn measure(bench: &Bench<'_>, lives: usize) -> anyhow::Result<Vec<f64>> {
    let mut stream = Rest::connect(bench.stack).await?;
    let response = stream.send(Method::GET, "/v1/events/stream", "application/json", Bytes::new()).await?;
    let (tell, mut told) = mpsc::unbounded_channel::<(f64, String)>();
    let reader = tokio::spawn(async move {
        let (mut body, mut text) = (response.into_body(), String::new());
        while let Some(frame) = body.frame().await {
            let now = Utc::now();
            text.push_str(&String::from_utf8_lossy(&frame?.into_data().unwrap_or_default()));
            while let Some((block, rest)) = text.split_once("\n\n").map(|(b, r)| (b.to_owned(), r.to_owned())) {
                text = rest;
                let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
                let data: Value = serde_json::from_str(data)?;
                if data["event"] == "capsule.state.changed" {
                    let at: DateTime<Utc> = data["timestamp"].as_str().context("no timestamp")?.parse()?;
                    let ms = (now - at).num_microseconds().unwrap_or(i64::MAX) as f64 / 1000.0;
                    let _ = tell.send((ms, data["metadata"]["to"].as_str().unwrap_or_default().to_owned()));
                }
            }
        }
        anyhow::Ok(())
    });
    let mut rest = Rest::connect(bench.stack).await?;
    let mut waits = Vec::new();
    for _ in 0..lives {
        // Deleted while it starts: what is measured is the way of the news, not the boot.
        let capsule = rest.json(Method::POST, "/v1/capsules", json!({})).await?;
        let id = capsule["id"].as_str().context("no id")?.to_owned();
        rest.json(Method::DELETE, &format!("/v1/capsules/{id}"), Value::Null).await?;
        loop {
            let (ms, to) =
                tokio::time::timeout(LIFE_MAX, told.recv()).await.context("no frame")?.context("the stream ended")?;
            waits.push(ms);
            if to == "stopped" {
                break;
            }
        }
    }
    reader.abort();
    ensure!(!waits.is_empty(), "no change of state was told");
    Ok(waits)
}
