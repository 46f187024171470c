//! A private Redis: own data directory, one unix socket, no TCP port.

use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::net::UnixStream;

use super::child::Spec;
use super::layout::{Layout, in_path};

const READY_WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where the control plane finds it.
pub fn url(layout: &Layout) -> String {
    format!("redis+unix://{}", socket(layout))
}

/// How to start the server.
///
/// # Errors
/// The program is missing.
pub fn prepare(layout: &Layout) -> anyhow::Result<Spec> {
    let program = in_path("redis-server").context("Redis is not installed: run `make setup`")?;
    let dir = layout.redis.display().to_string();
    let args = ["--port", "0", "--unixsocket", &socket(layout), "--unixsocketperm", "700", "--dir", &dir]
        .into_iter()
        .chain(["--save", "60 1", "--daemonize", "no", "--maxmemory", "256mb"])
        .map(str::to_owned)
        .collect();
    Ok(Spec {
        name: "redis",
        program,
        args,
        env: Vec::new(),
        user: None,
        stop_signal: Signal::SIGTERM,
        stop_wait: Duration::from_secs(15),
    })
}

/// Waits until the socket takes a connection.
///
/// # Errors
/// The server does not answer in time.
pub async fn ready(layout: &Layout) -> anyhow::Result<()> {
    let connect = async {
        while UnixStream::connect(socket(layout)).await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(READY_WAIT, connect).await.context("Redis did not start; see its log in the log directory")
}

fn socket(layout: &Layout) -> String {
    layout.run.join("redis.sock").display().to_string()
}
