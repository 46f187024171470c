//! What knowing the caller costs: a request by session and one by API key against one that needs neither. All three answer
//! after one round trip to the database, and are asked in turn over kept-alive connections.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::json;

use crate::Bench;
use crate::report::{Bound, Report, percentile_ms};
use crate::rest::Rest;

/// Needs no credential; asks the database whether it is there.
const OPEN: &str = "/health";
/// Needs one; asks the database for the team's name.
const GUARDED: &str = "/v1/whoami";

/// Runs the section.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let host = bench.stack.value("WRENN_BASE_URL")?.trim_start_matches("http://").to_owned();
    let key = bench.stack.value("WRENN_API_KEY")?;
    let (email, password) = (bench.stack.value("WRENN_ADMIN_EMAIL")?, bench.stack.value("WRENN_ADMIN_PASSWORD")?);
    let runs = bench.runs(3000);
    let runtime = tokio::runtime::Runtime::new()?;
    let (open, by_key, by_session) = runtime.block_on(async {
        let cookie = log_in(&host, &email, &password).await?;
        let mut nobody = Rest::with(&host, None).await?;
        let mut keyed = Rest::to(&host, &key).await?;
        let mut session = Rest::with(&host, Some(("cookie", cookie))).await?;
        let (mut open, mut by_key, mut by_session) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..runs {
            open.push(time(&mut nobody, OPEN).await?);
            by_key.push(time(&mut keyed, GUARDED).await?);
            by_session.push(time(&mut session, GUARDED).await?);
        }
        anyhow::Ok((open, by_key, by_session))
    })?;
    let floor = percentile_ms(&open, 50);
    let bound = Some(Bound::AtMost(1.3));
    report.against("request by API key, p50", "ms", percentile_ms(&by_key, 50), floor, bound, runs);
    report.against("request by session, p50", "ms", percentile_ms(&by_session, 50), floor, bound, runs);
    Ok(())
}

async fn time(rest: &mut Rest, path: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let answer = rest.send(Method::GET, path, "application/json", Bytes::new()).await?;
    answer.into_body().collect().await?;
    Ok(began.elapsed())
}

/// The cookie of a new session.
async fn log_in(host: &str, email: &str, password: &str) -> anyhow::Result<String> {
    let body = json!({"email": email, "password": password}).to_string();
    let mut nobody = Rest::with(host, None).await?;
    let answer = nobody.send(Method::POST, "/v1/auth/login", "application/json", Bytes::from(body)).await?;
    let lines = answer.headers().get_all("set-cookie").iter().filter_map(|line| line.to_str().ok());
    let pairs: Vec<&str> = lines.filter_map(|line| line.split(';').next()).collect();
    ensure!(!pairs.is_empty(), "the login set no cookie");
    pairs.into_iter().find(|pair| pair.starts_with("wrenn_sid=")).map(str::to_owned).context("no session cookie")
}
