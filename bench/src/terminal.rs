//! One keystroke and its echo in a terminal: through REST's WebSocket, and straight to envd over sockets in the guest's namespace.
//! The terminal's own echo answers, the same for both; keystrokes go to envd in one request that stays open, its leanest way.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::Bench;
use crate::guest::{ENVD, Guest};
use crate::report::{Bound, Report, percentile_ms};

/// Bound of the ratio of the medians.
const BOUND: f64 = 2.0;
/// What is typed, and what JSON makes of it. Fewer are typed than a line of a terminal holds (4095).
const KEY: &[u8] = b"x";
const KEY_BASE64: &str = "eA==";
/// Longest wait for one echo.
const ECHO_MAX: Duration = Duration::from_secs(10);

/// Runs the section.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let id = bench.stack.capsule(&[])?;
    let guest = Guest::find(&bench.stack.dir().join("wrenn"), &id)?;
    let runs = bench.runs(1000);
    let (ours, floor) = tokio::runtime::Runtime::new()?.block_on(async {
        let mut socket = Socket::open(bench, &id).await?;
        let mut direct = Direct::open(&guest).await?;
        for _ in 0..10 {
            socket.echo().await?;
            direct.echo().await?;
        }
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let begin = Instant::now();
            direct.echo().await?;
            floor.push(begin.elapsed());
            let begin = Instant::now();
            socket.echo().await?;
            ours.push(begin.elapsed());
        }
        anyhow::Ok((ours, floor))
    })?;
    for (name, percentile, bound) in [("p50", 50, Some(Bound::AtMost(BOUND))), ("p99", 99, None)] {
        let (ours, floor) = (percentile_ms(&ours, percentile), percentile_ms(&floor, percentile));
        report.against(&format!("keystroke to its echo through REST, {name}"), "ms", ours, floor, bound, runs);
    }
    bench.stack.remove(&id)
}

/// A terminal of the API.
struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn open(bench: &Bench<'_>, id: &str) -> anyhow::Result<Self> {
        let host = bench.stack.value("WRENN_BASE_URL")?.trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://{host}/v1/capsules/{id}/pty").into_client_request()?;
        request.headers_mut().insert("x-api-key", bench.stack.value("WRENN_API_KEY")?.parse()?);
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        socket.send(Message::text(json!({"type": "start", "cmd": "/bin/cat"}).to_string())).await?;
        let mut socket = Self(socket);
        match socket.next().await? {
            Message::Text(text) if text.contains("\"started\"") => Ok(socket),
            other => bail!("no terminal: {other:?}"),
        }
    }

    async fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            let message = tokio::time::timeout(ECHO_MAX, self.0.next()).await?.context("the socket ended")??;
            let ping = matches!(&message, Message::Text(text) if text.contains("\"ping\""));
            if !ping && !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                return Ok(message);
            }
        }
    }

    async fn echo(&mut self) -> anyhow::Result<()> {
        self.0.send(Message::Binary(KEY.into())).await?;
        let message = self.next().await?;
        ensure!(matches!(&message, Message::Binary(bytes) if bytes == KEY), "not the echo: {message:?}");
        Ok(())
    }
}

/// The same with envd's own protocol: output on one connection, input on another.
struct Direct {
    output: Incoming,
    read: Vec<u8>,
    input: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
}

impl Direct {
    async fn open(guest: &Guest) -> anyhow::Result<Self> {
        let terminal = json!({"process": {"cmd": "/bin/cat"}, "pty": {"size": {"cols": 80, "rows": 24}}});
        let output = call(guest, "Start", Full::new(envelope(&terminal)?)).await?;
        let output = tokio::time::timeout(ECHO_MAX, output).await??;
        ensure!(output.status().is_success(), "envd: {}", output.status());
        let (input, frames) = mpsc::channel(1);
        let mut direct = Self { output: output.into_body(), read: Vec::new(), input };
        let pid = direct.next().await?["event"]["start"]["pid"].as_u64().context("no terminal")?;
        let frames = futures::stream::unfold(frames, async |mut frames| Some((frames.recv().await?, frames)));
        let fed = call(guest, "StreamInput", StreamBody::new(frames)).await?;
        // Answers when the input ends.
        tokio::spawn(fed);
        direct.feed(&json!({"start": {"process": {"pid": pid}}})).await?;
        Ok(direct)
    }

    async fn feed(&self, message: &Value) -> anyhow::Result<()> {
        self.input.send(Ok(Frame::data(envelope(message)?))).await.context("envd reads no more input")
    }

    async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some((head, rest)) = self.read.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if let Some(message) = rest.get(..length) {
                    let message = serde_json::from_slice(message)?;
                    self.read.drain(..5 + length);
                    return Ok(message);
                }
            }
            let frame = tokio::time::timeout(ECHO_MAX, self.output.frame()).await?.context("the output ended")??;
            self.read.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }

    async fn echo(&mut self) -> anyhow::Result<()> {
        self.feed(&json!({"data": {"input": {"pty": KEY_BASE64}}})).await?;
        let message = self.next().await?;
        ensure!(message["event"]["data"]["pty"] == KEY_BASE64, "not the echo: {message}");
        Ok(())
    }
}

/// One call of `process.Process` on a connection of its own: the answer to come.
async fn call<B>(
    guest: &Guest,
    name: &str,
    body: B,
) -> anyhow::Result<impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let stream = guest.connect(ENVD)?;
    stream.set_nonblocking(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::from_std(stream)?)).await?;
    tokio::spawn(connection);
    let request = Request::post(format!("/process.Process/{name}"))
        .header("host", "guest")
        .header("x-access-token", &guest.token)
        .header("content-type", "application/connect+json")
        .header("connect-protocol-version", "1")
        .body(body)?;
    Ok(async move { sender.send_request(request).await })
}

/// A message as the Connect protocol frames it: no flags, its length, itself.
fn envelope(message: &Value) -> anyhow::Result<Bytes> {
    let message = message.to_string().into_bytes();
    let mut framed = vec![0u8];
    framed.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    framed.extend_from_slice(&message);
    Ok(framed.into())
}
