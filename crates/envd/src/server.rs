//! envd's life, from the first listening socket to the stop signal.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wrenn_contract::guest::{GATEWAY_ADDR, READY_BEACON, READY_PORT};

use crate::config::Config;
use crate::http;
use crate::state::Envd;

/// Worker threads: the guest's CPUs belong to its user.
const WORKERS: usize = 2;
/// Threads for file work.
const BLOCKING_THREADS_MAX: usize = 16;
/// Bytes of a thread's stack; nothing in envd recurses deeper than a JSON document.
const STACK_BYTES: usize = 512 * 1024;
/// Between two ready datagrams, until somebody answers with `/init`.
const BEACON_EVERY: Duration = Duration::from_millis(100);
/// Ready datagrams sent at most.
const BEACONS_MAX: u32 = 100;

/// Listens first, tells the host, and then builds the rest: what connects meanwhile waits in the socket's queue.
/// Returns after SIGTERM or SIGINT.
///
/// # Errors
/// The address is taken, or the runtime could not be built.
pub fn serve(config: &Config) -> std::io::Result<()> {
    // What is made without a mode of its own is for its owner to write.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let listener = TcpListener::bind(config.listen)?;
    listener.set_nonblocking(true)?;
    let beacon = if config.no_system { None } else { send_beacon() };
    let envd = Arc::new(Envd::new(config));
    if let Err(error) = envd.identity.prepare_run_dir() {
        tracing::warn!(%error, directory = %config.run_dir.display(), "cannot write the sandbox's files");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_stack_size(STACK_BYTES)
        .thread_name("envd")
        .enable_all()
        .build()?;
    let listen_on = listener.local_addr()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (stop_sender, stop) = watch::channel(false);
        tokio::spawn(wait_for_stop(stop_sender));
        if let Some(socket) = beacon {
            tokio::spawn(repeat_beacon(envd.clone(), socket));
        }
        tracing::info!(address = %listen_on, version = env!("CARGO_PKG_VERSION"), "envd listens");
        http::listen(listener, http::router(envd), stop).await;
        Ok(())
    })
}

async fn wait_for_stop(stop: watch::Sender<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    let _ = stop.send(true);
}

fn send_beacon() -> Option<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.set_nonblocking(true).ok()?;
    // Lost datagrams are repeated; a host that does not listen is no concern of the guest.
    let _ = socket.send_to(READY_BEACON, (GATEWAY_ADDR, READY_PORT));
    Some(socket)
}

async fn repeat_beacon(envd: Arc<Envd>, socket: UdpSocket) {
    for _ in 0..BEACONS_MAX {
        tokio::select! {
            () = envd.initialised.cancelled() => return,
            _ = tokio::time::sleep(BEACON_EVERY) => {}
        }
        let _ = socket.send_to(READY_BEACON, (GATEWAY_ADDR, READY_PORT));
    }
}
