//! GET of one capsule, authenticated, against a bare server that does one SELECT: requests a second.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Method;
use hyper::body::Bytes;

use crate::Bench;
use crate::report::{Bound, Report, median};
use crate::rest::Rest;

/// Connections that ask at once.
const CONNECTIONS: usize = 8;

/// Runs the section.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let id = bench.stack.capsule(&[])?;
    let uuid = uuid_of(&id)?;
    let socket = bench.stack.dir().join("run/postgres").display().to_string();
    let database = format!("postgres://wrenn@localhost/wrenn?host={socket}");
    let mut bare = Command::new(std::env::current_exe()?)
        .args(["bare-server", &database])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the bare server")?;
    let mut address = String::new();
    BufReader::new(bare.stdout.take().context("no stdout")?).read_line(&mut address)?;
    let address = address.trim().to_owned();

    let base = bench.stack.value("WRENN_BASE_URL")?.trim_start_matches("http://").to_owned();
    let key = bench.stack.value("WRENN_API_KEY")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let rounds = bench.runs(5);
    let span = Duration::from_secs(if bench.quick { 1 } else { 3 });
    let measured = runtime.block_on(async {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            floor.push(rate(&address, &key, &format!("/{uuid}"), span).await?);
            ours.push(rate(&base, &key, &format!("/v1/capsules/{id}"), span).await?);
        }
        anyhow::Ok((median(&mut ours), median(&mut floor)))
    });
    let _ = bare.kill();
    bare.wait()?;
    let (ours, floor) = measured?;
    report.against("GET one capsule, 8 connections", "/s", ours, floor, Some(Bound::AtLeast(0.5)), rounds);
    bench.stack.remove(&id)
}

/// Requests a second over all connections.
async fn rate(host: &str, key: &str, path: &str, span: Duration) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let askers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (host, key, path) = (host.to_owned(), key.to_owned(), path.to_owned());
            tokio::spawn(async move {
                let mut rest = Rest::to(&host, &key).await?;
                let mut count = 0u64;
                while begin.elapsed() < span {
                    let response = rest.send(Method::GET, &path, "application/json", Bytes::new()).await?;
                    http_body_util::BodyExt::collect(response.into_body()).await?;
                    count += 1;
                }
                anyhow::Ok(count)
            })
        })
        .collect();
    let mut total = 0;
    for asker in askers {
        total += asker.await??;
    }
    Ok(total as f64 / begin.elapsed().as_secs_f64())
}

fn uuid_of(id: &str) -> anyhow::Result<uuid::Uuid> {
    let digits = id.strip_prefix("cl-").context("no capsule id")?;
    let value =
        digits.chars().try_fold(0u128, |value, c| value.checked_mul(36)?.checked_add(u128::from(c.to_digit(36)?)));
    Ok(uuid::Uuid::from_u128(value.with_context(|| format!("{id} is no id"))?))
}
