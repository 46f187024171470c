//! Raw clients against a server that refuses everything.

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use http::Response;
use http_body_util::{Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::*;

const REFUSAL: &str = "HTTP/1.1 507 ";
/// More than is read quickly, and than the kernel's buffers hold besides.
const FAR_TOO_MUCH: usize = 4 * REFUSED_BODY_QUICK_BYTES;
const PIECE: &[u8] = &[7; 1024 * 1024];

/// Refuses every request: after a first look at its body, or at once.
async fn server(looks: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let refuse = move |request: Request<Incoming>| async move {
                let mut body = linger(request).into_body();
                if looks {
                    let _ = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
                }
                let refusal = Response::builder().status(507).body(Full::new(Bytes::from("full")));
                Ok::<_, Infallible>(refusal.expect("a response"))
            };
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(refuse)));
        }
    });
    addr
}

fn begin(addr: SocketAddr, bytes: usize, more: &str) -> TcpStream {
    let mut socket = TcpStream::connect(addr).expect("connects");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a bound");
    write!(socket, "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n{more}\r\n").expect("writes");
    socket
}

/// One answer, as it comes.
fn answer(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"full") {
        let mut piece = [0; 4096];
        match socket.read(&mut piece).expect("an answer") {
            0 => break,
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_only_when_it_cannot_write_sees_the_refusal_of_far_too_much() {
    let addr = server(true).await;
    let client = move || {
        let mut socket = begin(addr, FAR_TOO_MUCH, "");
        socket.set_nonblocking(true).expect("unblocks");
        let mut sent = 0;
        while sent < FAR_TOO_MUCH {
            match socket.write(PIECE) {
                Ok(n) => sent += n,
                // What a client does that watches both directions.
                Err(error) if error.kind() == ErrorKind::WouldBlock => match socket.peek(&mut [0]) {
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                    Err(error) => panic!("no answer after {sent} bytes: {error}"),
                },
                Err(error) => panic!("after {sent} bytes: {error}"),
            }
        }
        socket.set_nonblocking(false).expect("blocks");
        assert!(answer(&mut socket).starts_with(REFUSAL));
    };
    for _ in 0..3 {
        spawn_blocking(client).await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_when_all_is_sent_sees_the_refusal_and_goes_on() {
    for looks in [true, false] {
        let addr = server(looks).await;
        let client = move || {
            let mut socket = begin(addr, REFUSED_BODY_QUICK_BYTES, "");
            for _ in 0..2 {
                for _ in 0..REFUSED_BODY_QUICK_BYTES / PIECE.len() {
                    socket.write_all(PIECE).expect("is read off");
                }
                assert!(answer(&mut socket).starts_with(REFUSAL));
                let head = format!("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: {REFUSED_BODY_QUICK_BYTES}\r\n\r\n");
                socket.write_all(head.as_bytes()).expect("the connection is kept");
            }
        };
        spawn_blocking(client).await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_first_is_not_told_to_send_what_nobody_wants() {
    let addr = server(false).await;
    let client = move || answer(&mut begin(addr, FAR_TOO_MUCH, "expect: 100-continue\r\n"));
    let answer = spawn_blocking(client).await.expect("no panic");
    assert!(answer.starts_with(REFUSAL), "{answer}");
}

#[tokio::test]
async fn a_body_without_an_end_is_read_for_a_while_and_slowly_in_the_end() {
    let (pieces, body) = mpsc::channel(1);
    let body = StreamBody::new(Pieces(body));
    let began = Instant::now();
    drop(linger(Request::new(body)).into_body());
    let mut sent = 0;
    while pieces.send(Ok::<_, Infallible>(Frame::data(Bytes::from_static(PIECE)))).await.is_ok() {
        sent += PIECE.len();
    }
    assert!(began.elapsed() >= REFUSED_BODY_WAIT_MAX);
    let slow = REFUSED_BODY_WAIT_MAX.as_millis() / REFUSED_BODY_PAUSE.as_millis();
    let most = REFUSED_BODY_QUICK_BYTES + (slow as usize + 2) * PIECE.len();
    assert!((REFUSED_BODY_QUICK_BYTES..=most).contains(&sent), "{sent}");
}

struct Pieces(mpsc::Receiver<Result<Frame<Bytes>, Infallible>>);

impl futures::Stream for Pieces {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
