//! Connections to the agent: a bounded number, and until one has shown the host's token it has little time and can be given up for
//! another.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::mutex::lock;

/// Connections at once. Only those that have shown the token can fill it.
pub const CONNECTIONS_MAX: usize = 2048;
/// Connections at once that have not shown the token; the oldest goes when another comes.
const UNPROVEN_MAX: usize = 256;
/// Time in which a connection must show the token.
pub const PROOF_WAIT: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted, because descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time for requests under way when the agent stops.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Proof tells a connection's own task that a request on it has shown the token. Every request carries one.
#[derive(Clone)]
pub struct Proof {
    unproven: Arc<Mutex<Unproven>>,
    number: u64,
    given: CancellationToken,
    given_up: CancellationToken,
}

/// Connections that have not shown the token, by age.
#[derive(Default)]
struct Unproven {
    next: u64,
    given_up: BTreeMap<u64, CancellationToken>,
}

impl Proof {
    /// Notes a new connection; the oldest one without a proof is given up when there are too many.
    fn pending(unproven: &Arc<Mutex<Unproven>>) -> Self {
        let (given, given_up) = (CancellationToken::new(), CancellationToken::new());
        let mut list = lock(unproven);
        if list.given_up.len() >= UNPROVEN_MAX
            && let Some((_, oldest)) = list.given_up.pop_first()
        {
            oldest.cancel();
        }
        let number = list.next;
        list.next += 1;
        list.given_up.insert(number, given_up.clone());
        Self { unproven: Arc::clone(unproven), number, given, given_up }
    }

    /// Notes that the token was shown: the connection lasts as long as its ends like.
    pub fn give(&self) {
        if lock(&self.unproven).given_up.remove(&self.number).is_some() {
            self.given.cancel();
        }
    }
}

/// Serves `app` until `stop` ends, then lets requests under way end for a while. A connection must show the token within `proof_wait`.
pub async fn listen(listener: TcpListener, app: Router, proof_wait: Duration, stop: impl Future<Output = ()> + Send) {
    let (connections, stopping) = (TaskTracker::new(), CancellationToken::new());
    let (permits, unproven) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Mutex::new(Unproven::default())));
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            // First: a flood of connections must not hold the end up.
            biased;
            () = &mut stop => break,
            (permit, accepted) = accepted => match accepted {
                Ok((stream, _)) => (permit, stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let proof = Proof::pending(&unproven);
        let (app, stopping) = (app.clone(), stopping.clone());
        connections.spawn(async move {
            serve(stream, app, &proof, proof_wait, &stopping).await;
            lock(&proof.unproven).given_up.remove(&proof.number);
            drop(permit);
        });
    }
    drop(listener);
    stopping.cancel();
    connections.close();
    if timeout(STOP_WAIT, connections.wait()).await.is_err() {
        tracing::warn!("{} connections do not end in time and are cut", connections.len());
    }
}

async fn serve(stream: TcpStream, app: Router, proof: &Proof, proof_wait: Duration, stopping: &CancellationToken) {
    // Small answers must not wait for the next packet; a connection that broke already ends by itself.
    let _ = stream.set_nodelay(true);
    let answer = hyper::service::service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(proof.clone());
        app.clone().oneshot(request)
    });
    let builder = Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), answer));
    let unproven = tokio::select! {
        biased;
        // Its end says nothing that the other side does not know.
        _ = connection.as_mut() => return,
        () = proof.given.cancelled() => None,
        () = stopping.cancelled() => Some("the agent stops"),
        () = proof.given_up.cancelled() => Some("there are too many of its kind"),
        () = sleep(proof_wait) => Some("it has not shown the host's token in time"),
    };
    if let Some(why) = unproven {
        tracing::debug!("a connection is cut: {why}");
        return;
    }
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Extension;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: agent\r\n\r\n";

    async fn start(proof_wait: Duration) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let app = Router::new().route("/", get(|Extension(proof): Extension<Proof>| async move { proof.give() }));
        let serving = tokio::spawn(listen(listener, app, proof_wait, stop.clone().cancelled_owned()));
        (address, stop, serving)
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let mut head = [0; 12];
        stream.write_all(REQUEST).await.is_ok()
            && stream.read_exact(&mut head).await.is_ok()
            && &head == b"HTTP/1.1 200"
    }

    #[tokio::test]
    async fn a_connection_without_the_token_is_cut_and_one_that_showed_it_is_not() {
        let wait = Duration::from_secs(1);
        let (address, stop, serving) = start(wait).await;
        let mut proven = TcpStream::connect(address).await.unwrap();
        assert!(is_answered(&mut proven).await);
        let cut = async |said: &[u8]| {
            let begun = Instant::now();
            let mut silent = TcpStream::connect(address).await.unwrap();
            silent.write_all(said).await.unwrap();
            // A reset when it had said something that nobody read.
            assert!(matches!(silent.read(&mut [0; 64]).await, Ok(0) | Err(_)), "it is answered");
            assert!(begun.elapsed() >= wait, "{:?}", begun.elapsed());
        };
        timeout(PROOF_WAIT, async { tokio::join!(cut(b""), cut(b"GET / HTTP/1.1\r\nx-slow: ")) }).await.unwrap();
        let mut rest = vec![0; 4096];
        let _ = proven.try_read(&mut rest);
        assert!(is_answered(&mut proven).await, "a connection that showed the token may be silent");
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn silent_connections_keep_nobody_out() {
        let (address, stop, serving) = start(PROOF_WAIT).await;
        let mut silent = Vec::new();
        for _ in 0..UNPROVEN_MAX + 50 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut honest = TcpStream::connect(address).await.unwrap();
        assert!(
            timeout(PROOF_WAIT / 2, is_answered(&mut honest)).await.unwrap(),
            "it waits for those that say nothing"
        );
        // The oldest were given up for the later ones.
        assert!(matches!(timeout(PROOF_WAIT / 2, silent[0].read(&mut [0; 1])).await.unwrap(), Ok(0) | Err(_)));
        stop.cancel();
        serving.await.unwrap();
    }
}
