//! A client's connection: the bytes that were read to tell its protocol come first, and it can be cut from outside.
//!
//! Cut means reset: what lies in this machine's send buffer is thrown away, so a client that reads slowly sees the end at once and not
//! after megabytes it was not to get any more.
//!
//! Our HTTP library refuses a head it cannot read with an answer that has no body; such an answer gets words on its way out.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use wrenn_contract::rest::error::{ErrorBody, ErrorCode, ErrorDetail};

/// The beginning of an HTTP/2 connection of a client that knows that we speak it; no HTTP/1 method begins like this.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Cuts one connection. Cheap to clone; put into every HTTP/1 request as an extension.
#[derive(Clone, Default)]
pub(crate) struct Cut(Arc<CutState>);

#[derive(Default)]
struct CutState {
    is_cut: AtomicBool,
    /// The task that reads and writes the connection.
    task: AtomicWaker,
    /// A request was read whose answer has not begun: the next answer is not the library's own.
    is_asked: AtomicBool,
    /// Whether another protocol is carried, whose own rules say how slow a client may be.
    is_upgraded: AtomicBool,
}

impl Cut {
    /// Cuts the connection now, whoever reads or writes it.
    pub(crate) fn cut(&self) {
        self.0.is_cut.store(true, Ordering::Release);
        self.0.task.wake();
    }

    /// Notes that the connection carries another protocol from now on.
    pub(crate) fn upgraded(&self) {
        self.0.is_upgraded.store(true, Ordering::Release);
    }

    /// Notes that a request was read.
    pub(crate) fn asked(&self) {
        self.0.is_asked.store(true, Ordering::Release);
    }
}

/// A connection to a client.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes that were read and are still to be given.
    first: Bytes,
    cut: Cut,
    /// Bytes that are still to be written in the place of an answer without words.
    instead: Option<Bytes>,
    /// Time within which the client must take the next bytes.
    longest: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Protocol a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Connection {
    /// Wraps a connection whose first bytes were read already.
    pub(crate) fn new(stream: TcpStream, first: Bytes, longest: Duration) -> Self {
        Self { stream, first, cut: Cut::default(), instead: None, longest, stalled: None }
    }

    /// The way to cut it.
    pub(crate) fn cut(&self) -> Cut {
        self.cut.clone()
    }

    fn check(&self, cx: &mut Context<'_>) -> io::Result<()> {
        // Registered before the look, so that a cut in between is seen.
        self.cut.0.task.register(cx.waker());
        if self.cut.0.is_cut.load(Ordering::Acquire) {
            // Without it the kernel would go on sending what it has.
            let _ = self.stream.set_zero_linger();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Connection {
    /// Ends a write that waits too long for the client.
    fn bounded(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() || self.cut.0.is_upgraded.load(Ordering::Acquire) {
            self.stalled = None;
            return written;
        }
        let longest = self.longest;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
        if stalled.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let _ = self.stream.set_zero_linger();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Writes words in the place of a refusal of the library's own; none when `from` is to be written as it is.
    fn poll_write_words(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<Option<io::Result<usize>>> {
        if self.instead.is_none() {
            if !from.starts_with(b"HTTP/1.") {
                return Poll::Ready(None);
            }
            // An answer to a request, or the word to go on with it, is passed on.
            let goes_on = from.starts_with(b"HTTP/1.1 100 ");
            if goes_on || self.cut.0.is_asked.swap(false, Ordering::AcqRel) {
                return Poll::Ready(None);
            }
            self.instead = words(from);
        }
        let Some(rest) = &mut self.instead else { return Poll::Ready(None) };
        while rest.has_remaining() {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(count)) => rest.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.instead = None;
        Poll::Ready(Some(Ok(from.len())))
    }
}

/// The refusal with words, if it is one of the library's own: closing, and without a body.
fn words(refusal: &[u8]) -> Option<Bytes> {
    let text = std::str::from_utf8(refusal).ok()?;
    let is_own = text.ends_with("\r\n\r\n")
        && text.contains("\r\ncontent-length: 0\r\n")
        && text.contains("\r\nconnection: close\r\n");
    let (status, code, message) = match text.get(9..12).filter(|_| is_own)? {
        "400" => ("400 Bad Request", ErrorCode::InvalidRequest, "the request is not valid HTTP/1.1"),
        "414" => ("414 URI Too Long", ErrorCode::InvalidRequest, "the path of the request is too long"),
        "431" => (
            "431 Request Header Fields Too Large",
            ErrorCode::InvalidRequest,
            "the head of the request is too large, or has more than 200 headers",
        ),
        _ => return None,
    };
    let detail = ErrorDetail { code, message: message.to_owned(), request_id: "req_0000000000000000".to_owned() };
    let body = serde_json::to_string(&ErrorBody { error: detail }).ok()?;
    Some(Bytes::from(format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )))
}

/// Waits for a client's first byte.
///
/// # Errors
/// When the connection breaks, or is closed without a byte.
pub(crate) async fn first_byte(stream: &mut TcpStream) -> io::Result<BytesMut> {
    let mut first = BytesMut::with_capacity(H2_PREFACE.len());
    match stream.read_buf(&mut (&mut first).limit_to(1)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first),
    }
}

/// Reads until it is clear what the client speaks: the preface of HTTP/2 may come in pieces.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn protocol(stream: &mut TcpStream, first: &mut BytesMut) -> io::Result<Protocol> {
    while H2_PREFACE.starts_with(first) {
        if first.len() == H2_PREFACE.len() {
            return Ok(Protocol::Http2);
        }
        let missing = H2_PREFACE.len() - first.len();
        if stream.read_buf(&mut first.limit_to(missing)).await? == 0 {
            break;
        }
    }
    Ok(Protocol::Http1)
}

/// Bounds how much one read puts into a buffer.
trait LimitTo: bytes::BufMut + Sized {
    fn limit_to(self, bytes: usize) -> bytes::buf::Limit<Self> {
        bytes::BufMut::limit(self, bytes)
    }
}

impl LimitTo for &mut BytesMut {}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        if self.first.has_remaining() {
            let count = self.first.len().min(into.remaining());
            into.put_slice(&self.first.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = match self.poll_write_words(cx, from) {
            Poll::Ready(None) => Pin::new(&mut self.stream).poll_write(cx, from),
            Poll::Ready(Some(done)) => Poll::Ready(done),
            Poll::Pending => Poll::Pending,
        };
        self.bounded(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let head = from.iter().find(|slice| !slice.is_empty());
        let written = match self.poll_write_words(cx, head.map_or(&[], |slice| slice)) {
            Poll::Ready(None) => Pin::new(&mut self.stream).poll_write_vectored(cx, from),
            Poll::Ready(Some(done)) => Poll::Ready(done),
            Poll::Pending => Poll::Pending,
        };
        self.bounded(cx, written)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        (client, listener.accept().await.expect("accepted").0)
    }

    #[tokio::test]
    async fn the_protocol_is_told_however_the_first_bytes_are_cut_up_and_no_byte_is_lost() {
        for (text, is) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM"[..], Protocol::Http2),
            (b"PRIVATE / HTTP/1.1\r\n", Protocol::Http1),
            (b"GET / HTTP/1.1\r\n", Protocol::Http1),
            (b"P", Protocol::Http1),
        ] {
            for at in 1..=text.len() {
                let (mut client, mut server) = pair().await;
                let sent = async {
                    client.set_nodelay(true).expect("set");
                    client.write_all(&text[..at]).await.expect("sent");
                    tokio::task::yield_now().await;
                    client.write_all(&text[at..]).await.expect("sent");
                    client.shutdown().await.expect("ended");
                };
                let read = async {
                    let mut first = first_byte(&mut server).await.expect("a byte");
                    assert_eq!(protocol(&mut server, &mut first).await.expect("told"), is);
                    let mut all = Vec::new();
                    Connection::new(server, first.freeze(), Duration::from_secs(30))
                        .read_to_end(&mut all)
                        .await
                        .expect("read");
                    assert_eq!(all, text);
                };
                tokio::join!(sent, read);
            }
        }
    }

    #[tokio::test]
    async fn a_cut_ends_a_blocked_writer_and_the_reader_gets_no_more_than_is_on_its_side() {
        let (mut client, server) = pair().await;
        let mut connection = Connection::new(server, Bytes::new(), Duration::from_secs(30));
        let cut = connection.cut();
        let writer = tokio::spawn(async move {
            let piece = vec![0; 1 << 20];
            loop {
                if let Err(error) = connection.write_all(&piece).await {
                    return error.kind();
                }
            }
        });
        // The writer is blocked once nothing reads and every buffer is full.
        tokio::time::timeout(Duration::from_secs(10), async {
            client.readable().await.expect("bytes");
        })
        .await
        .expect("in time");
        cut.cut();
        assert_eq!(writer.await.expect("no panic"), io::ErrorKind::ConnectionReset);
        let mut rest = Vec::new();
        let ended = client.read_to_end(&mut rest).await.expect_err("a reset, not an end");
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up_unless_it_speaks_another_protocol() {
        for upgraded in [false, true] {
            let (_client, server) = pair().await;
            let mut connection = Connection::new(server, Bytes::new(), Duration::from_millis(50));
            let cut = connection.cut();
            if upgraded {
                cut.upgraded();
            }
            let mut writer = tokio::spawn(async move { connection.write_all(&vec![0; 64 << 20]).await });
            match upgraded {
                false => {
                    let ended = tokio::time::timeout(Duration::from_secs(10), writer).await.expect("in time");
                    assert_eq!(ended.expect("no panic").expect_err("given up").kind(), io::ErrorKind::TimedOut);
                }
                true => {
                    let ended = tokio::time::timeout(Duration::from_millis(500), &mut writer).await;
                    assert!(ended.is_err(), "it waits for its client");
                    cut.cut();
                    assert!(writer.await.expect("no panic").is_err());
                }
            }
        }
    }
}
