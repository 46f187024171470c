//! `/bin/true` in a running capsule: through REST, and straight to envd over a socket in the guest's namespace.

use std::time::Instant;

use anyhow::ensure;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::json;

use crate::Bench;
use crate::guest::{ENVD, Guest};
use crate::report::{Bound, Report, percentile_ms};
use crate::rest::Rest;

/// Runs the section.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let id = bench.stack.capsule(&[])?;
    let guest = Guest::find(&bench.stack.dir().join("wrenn"), &id)?;
    let runs = bench.runs(100);
    let (ours, floor) = tokio::runtime::Runtime::new()?.block_on(async {
        let mut rest = Rest::connect(bench.stack).await?;
        let mut direct = Direct::connect(&guest).await?;
        // Warm both paths and the guest's page cache.
        for _ in 0..3 {
            rest.exec(&id, "/bin/true", &["x"]).await?;
            direct.run("/bin/true", &["x"]).await?;
        }
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let begin = Instant::now();
            direct.run("/bin/true", &["x"]).await?;
            floor.push(begin.elapsed());
            let begin = Instant::now();
            rest.exec(&id, "/bin/true", &["x"]).await?;
            ours.push(begin.elapsed());
        }
        anyhow::Ok((ours, floor))
    })?;
    for (name, percentile, bound) in [("p50", 50, Some(Bound::AtMost(1.5))), ("p99", 99, None)] {
        let (ours, floor) = (percentile_ms(&ours, percentile), percentile_ms(&floor, percentile));
        report.against(&format!("exec of /bin/true through REST, {name}"), "ms", ours, floor, bound, runs);
    }
    bench.stack.remove(&id)
}

/// envd's own protocol on one kept-alive connection.
pub struct Direct {
    sender: SendRequest<Full<Bytes>>,
    token: String,
}

impl Direct {
    /// Connects to envd.
    pub async fn connect(guest: &Guest) -> anyhow::Result<Self> {
        let stream = guest.connect(ENVD)?;
        stream.set_nonblocking(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, token: guest.token.clone() })
    }

    /// `process.Process/Start`, read to its end event.
    pub async fn run(&mut self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let message = json!({"process": {"cmd": program, "args": arguments}, "stdin": false}).to_string();
        let mut body = vec![0u8];
        body.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        body.extend_from_slice(message.as_bytes());
        let request = Request::post("/process.Process/Start")
            .header("host", "guest")
            .header("x-access-token", &self.token)
            .header("content-type", "application/connect+json")
            .header("connect-protocol-version", "1")
            .body(Full::new(Bytes::from(body)))?;
        let answer = self.send(request).await?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(text.contains("\"end\""), "no end event: {text}");
        Ok(())
    }

    /// What envd is asked before its guest is written down.
    pub async fn prepare(&mut self) -> anyhow::Result<()> {
        let request = Request::post("/snapshot/prepare").header("host", "guest").header("x-access-token", &self.token);
        self.send(request.body(Full::default())?).await.map(drop)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Bytes> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status().is_success(), "envd: {}", response.status());
        Ok(response.into_body().collect().await?.to_bytes())
    }
}
