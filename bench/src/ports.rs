//! Requests a second to an HTTP server in the guest: through the control plane's port proxy, and straight to its port over sockets in
//! the guest's namespace. The server is envd's /health, the same for both.

use std::time::{Duration, Instant};

use anyhow::ensure;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Bench;
use crate::guest::{ENVD, Guest};
use crate::report::{Bound, Report, median};

/// Connections that ask at once.
const CONNECTIONS: usize = 8;

/// Runs the section.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let id = bench.stack.capsule(&[])?;
    let guest = Guest::find(&bench.stack.dir().join("wrenn"), &id)?;
    let base = bench.stack.value("WRENN_BASE_URL")?.trim_start_matches("http://").to_owned();
    let name = format!("{ENVD}-{id}.localhost");
    let rounds = bench.runs(5);
    let span = Duration::from_secs(if bench.quick { 1 } else { 3 });
    let (ours, floor) = tokio::runtime::Runtime::new()?.block_on(async {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut streams = Vec::new();
            for _ in 0..CONNECTIONS {
                let stream = guest.connect(ENVD)?;
                stream.set_nonblocking(true)?;
                streams.push(TcpStream::from_std(stream)?);
            }
            floor.push(rate(streams, "guest", &guest.token, span).await?);
            let mut streams = Vec::new();
            for _ in 0..CONNECTIONS {
                let stream = TcpStream::connect(&base).await?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
            ours.push(rate(streams, &name, &guest.token, span).await?);
        }
        anyhow::Ok((median(&mut ours), median(&mut floor)))
    })?;
    report.against("proxied GET, 8 connections", "/s", ours, floor, Some(Bound::AtLeast(0.5)), rounds);
    bench.stack.remove(&id)
}

/// Requests a second over all connections.
async fn rate(streams: Vec<TcpStream>, host: &str, token: &str, span: Duration) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let mut askers = Vec::new();
    for stream in streams {
        let (host, token) = (host.to_owned(), token.to_owned());
        askers.push(tokio::spawn(async move {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let mut count = 0u64;
            while begin.elapsed() < span {
                let request = Request::get("/health").header("host", &host).header("x-access-token", &token);
                sender.ready().await?;
                let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
                ensure!(response.status().is_success(), "{host}: {}", response.status());
                response.into_body().collect().await?;
                count += 1;
            }
            anyhow::Ok(count)
        }));
    }
    let mut total = 0;
    for asker in askers {
        total += asker.await??;
    }
    Ok(total as f64 / begin.elapsed().as_secs_f64())
}
