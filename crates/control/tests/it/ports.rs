//! The port proxy and raw tunnels, with a real HTTP server as the guest's (a port of the simulated host's loopback).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request as AxumRequest, State, WebSocketUpgrade};
use axum::response::{IntoResponse, Response as AxumResponse};
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use wrenn_contract::proto::wrenn::host::v1::SandboxPhase;
use wrenn_testkit::wait_until;

use crate::harness::{Answer, SOON, World, new_key};

const MIB: u64 = 1024 * 1024;

/// A web application in a capsule.
#[derive(Default)]
struct App {
    /// Requests it saw.
    seen: AtomicU64,
    /// Bytes it handed out of `/source`.
    handed_out: AtomicU64,
    /// Lets `/events` go on.
    go_on: Notify,
}

impl App {
    /// Listens on a free port.
    async fn start() -> (Arc<Self>, u16) {
        let app = Arc::new(Self::default());
        let router = axum::Router::new()
            .route("/file/{n}", get(|Path(n): Path<u32>| async move { format!("file {n}") }))
            .route("/look", any(look))
            .route("/sink", post(sink))
            .route("/source/{mib}", get(source))
            .route("/echo", post(|body: Body| async move { body }))
            .route("/events", get(events))
            .route("/trailers", post(trailers))
            .route("/cookies", get(cookies))
            .route("/ws", get(|upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(echo_socket) }))
            .route("/nothing", get(|| async { StatusCode::NO_CONTENT }))
            .with_state(app.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        (app, port)
    }
}

/// Everything the application can see of a request.
async fn look(State(app): State<Arc<App>>, request: AxumRequest) -> AxumResponse {
    app.seen.fetch_add(1, Ordering::Relaxed);
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in request.headers() {
        headers.push((name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    let (method, uri) = (request.method().to_string(), request.uri().to_string());
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let seen = json!({"method": method, "uri": uri, "headers": headers, "body": String::from_utf8_lossy(&body)});
    ([("x-seen", "yes")], seen.to_string()).into_response()
}

async fn sink(body: Body) -> String {
    let mut stream = body.into_data_stream();
    let mut count = 0;
    while let Some(piece) = stream.next().await {
        count += piece.expect("whole").len();
    }
    count.to_string()
}

async fn source(State(app): State<Arc<App>>, Path(mib): Path<u64>) -> Body {
    let piece = Bytes::from(vec![7u8; 64 * 1024]);
    let pieces = futures::stream::iter(0..mib * 16).map(move |_| {
        app.handed_out.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok::<_, std::io::Error>(piece.clone())
    });
    Body::from_stream(pieces)
}

async fn events(State(app): State<Arc<App>>) -> AxumResponse {
    let first = futures::stream::once(async { Ok::<_, std::io::Error>("data: first\n\n") });
    let second = futures::stream::once(async move {
        app.go_on.notified().await;
        Ok("data: second\n\n")
    });
    ([("content-type", "text/event-stream")], Body::from_stream(first.chain(second))).into_response()
}

/// Answers with the request's trailer as its own.
async fn trailers(request: AxumRequest) -> AxumResponse {
    let collected = request.into_body().collect().await.expect("a body");
    let came = collected.trailers().and_then(|t| t.get("x-sum").cloned()).unwrap_or(HeaderValue::from_static("none"));
    let frames = vec![
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"body"))),
        Ok(Frame::trailers(HeaderMap::from_iter([(http::HeaderName::from_static("x-back"), came)]))),
    ];
    let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
    ([("trailer", "x-back")], body).into_response()
}

async fn cookies() -> AxumResponse {
    let mut response = "ok".into_response();
    for line in ["a=1; Domain=localhost; Path=/", "b=2; Path=/"] {
        response.headers_mut().append("set-cookie", HeaderValue::from_static(line));
    }
    response
}

async fn echo_socket(mut socket: axum::extract::ws::WebSocket) {
    while let Some(Ok(message)) = socket.next().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

fn host(port: u16, id: &str) -> String {
    format!("{port}-{id}.localhost:8080")
}

fn ask(world: &World, method: Method, host: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(world.plane.url(path)).header("host", host)
}

async fn fetch(world: &World, host: &str, path: &str) -> Answer {
    world.api.send(ask(world, Method::GET, host, path).body(Full::default()).expect("valid")).await
}

/// Asserts an answer of the proxy itself.
#[track_caller]
fn check_refusal(answer: &Answer, status: u16, says: &str) {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, status, "{text}");
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert!(text.contains(says), "{text:?} does not say {says:?}");
}

/// On a connection of one's own nobody else makes a path of a URL.
fn to_origin_form<B>(request: &mut Request<B>) {
    let path = request.uri().path_and_query().expect("a path").as_str().parse().expect("a path");
    *request.uri_mut() = path;
}

/// One HTTP/1.1 connection, to stream over.
async fn stream(world: &World, mut request: Request<Full<Bytes>>) -> http::Response<Incoming> {
    to_origin_form(&mut request);
    let tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.expect("speaks HTTP");
    tokio::spawn(connection);
    tokio::time::timeout(SOON, sender.send_request(request)).await.expect("in time").expect("an answer")
}

/// Sends bytes as they are and returns what comes back until the other side closes.
async fn raw(addr: SocketAddr, bytes: &str) -> String {
    let mut tcp = TcpStream::connect(addr).await.expect("connects");
    tcp.write_all(bytes.as_bytes()).await.expect("sends");
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, tcp.read_to_end(&mut answer)).await.expect("closes").expect("reads");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A server that does what no library would: it gets each connection with its number.
async fn odd_server<F, Fut>(act: F) -> u16
where
    F: Fn(u64, TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(act(number, tcp));
            number += 1;
        }
    });
    port
}

/// Reads one request's head.
async fn head(tcp: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_loads_200_files_over_few_connections() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (_, port) = App::start().await;
    let host = host(port, &id);
    let (world, host) = (&world, &host);
    join_all((0..6).map(|lane| async move {
        for n in (0..200).filter(|n| n % 6 == lane) {
            let answer = fetch(world, host, &format!("/file/{n}")).await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (200, format!("file {n}").as_bytes()));
        }
    }))
    .await;
    let tunnels = world.host.calls("tunnel", &id);
    assert!((1..=12).contains(&tunnels), "{tunnels} connections to the guest");
}

#[tokio::test]
async fn an_application_sees_the_request_as_it_was_and_none_of_our_secrets() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (_, port) = App::start().await;
    let host = host(port, &id);
    let request = ask(&world, Method::PUT, &host, "/look?a=%20b&c")
        .header("x-api-key", &world.key)
        .header("cookie", "theirs=1; wrenn_sid=ours; wrenn_csrf=ours; more=2")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-own", "kept")
        .header("connection", "x-drop")
        .header("x-drop", "dropped");
    let answer = world.api.send(request.body(Full::from("hello")).expect("valid")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["x-seen"], "yes");
    assert_eq!(answer.headers.get("x-request-id"), None, "none of the API's layers");
    let seen = answer.json();
    assert_eq!(
        (&seen["method"], &seen["uri"], &seen["body"]),
        (&json!("PUT"), &json!("/look?a=%20b&c"), &json!("hello"))
    );
    let headers: Vec<(String, String)> = serde_json::from_value(seen["headers"].clone()).expect("pairs");
    let of = |name: &str| headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
    assert_eq!(of("host"), [&host]);
    assert_eq!(of("cookie"), ["theirs=1; more=2"]);
    // A proxy on this machine is trusted unless the configuration says otherwise.
    assert_eq!(of("x-forwarded-for"), ["6.6.6.6, 127.0.0.1"]);
    assert_eq!(of("x-forwarded-host"), [&host]);
    assert_eq!(of("x-forwarded-proto"), ["http"]);
    assert_eq!(of("x-own"), ["kept"]);
    assert_eq!(of("content-length"), ["5"]);
    assert!(of("x-drop").is_empty() && of("x-api-key").is_empty() && of("connection").is_empty());

    let answer = fetch(&world, &host, "/cookies").await;
    let lines: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(lines, ["a=1; Path=/", "b=2; Path=/"]);
    assert_eq!(fetch(&world, &host, "/nothing").await.status, 204);
    assert_eq!(fetch(&world, &host, "/no/such").await.status, 404, "the application's own");
    let head = world.api.send(ask(&world, Method::HEAD, &host, "/file/7").body(Full::default()).expect("valid")).await;
    assert_eq!((head.headers["content-length"].to_str().ok(), head.body.len()), (Some("6"), 0));
}

#[tokio::test]
async fn a_websocket_passes_and_its_bytes_come_back() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (_, port) = App::start().await;
    let tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let mut request = format!("ws://{}/ws", world.plane.addr()).into_client_request().expect("valid");
    request.headers_mut().insert("host", host(port, &id).parse().expect("valid"));
    let (mut socket, _) = tokio_tungstenite::client_async(request, tcp).await.expect("upgraded");
    for message in [Message::text("€"), Message::binary(vec![9u8; 100_000])] {
        socket.send(message.clone()).await.expect("sends");
        let back = tokio::time::timeout(SOON, socket.next()).await.expect("in time").expect("open").expect("whole");
        assert_eq!(back, message);
    }
    // A capsule that ends takes its sockets with it.
    world.host.crash(&id);
    let ended = tokio::time::timeout(SOON, socket.next()).await.expect("in time");
    assert!(matches!(ended, None | Some(Err(_))), "{ended:?}");
}

#[tokio::test]
async fn events_arrive_while_the_answer_goes_on() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (app, port) = App::start().await;
    let request = ask(&world, Method::GET, &host(port, &id), "/events").body(Full::default()).expect("valid");
    let mut response = stream(&world, request).await;
    let mut next = async || {
        let frame = tokio::time::timeout(SOON, response.frame()).await.expect("in time").expect("more").expect("whole");
        frame.into_data().expect("data")
    };
    assert_eq!(next().await, "data: first\n\n");
    app.go_on.notify_one();
    assert_eq!(next().await, "data: second\n\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_stream_both_ways_and_a_slow_reader_slows_the_server() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (app, port) = App::start().await;
    let host = host(port, &id);
    let request = ask(&world, Method::GET, &host, "/source/100").body(Full::default()).expect("valid");
    let mut response = stream(&world, request).await;
    // Nothing is read until the server has stopped handing out, because all buffers on the way are full.
    let (mut before, mut still) = (0, 0);
    wait_until("the server is slowed", SOON, || {
        let now = app.handed_out.load(Ordering::Relaxed);
        still = if now > 0 && now == before { still + 1 } else { 0 };
        before = now;
        let slowed = still >= 10;
        async move { slowed.then_some(()) }
    })
    .await;
    let ahead = app.handed_out.load(Ordering::Relaxed);
    assert!(ahead < 60 * MIB, "{ahead} bytes are held somewhere");
    let mut got = 0;
    while let Some(frame) = tokio::time::timeout(SOON, response.frame()).await.expect("in time") {
        got += frame.expect("whole").into_data().expect("data").len() as u64;
    }
    assert_eq!(got, 100 * MIB);

    let tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.expect("HTTP");
    tokio::spawn(connection);
    let piece = Bytes::from(vec![1u8; 1024 * 1024]);
    let pieces = futures::stream::iter((0..100).map(move |_| Ok::<_, std::io::Error>(Frame::data(piece.clone()))));
    let mut request = ask(&world, Method::POST, &host, "/sink").body(StreamBody::new(pieces)).expect("valid");
    to_origin_form(&mut request);
    let response = tokio::time::timeout(SOON, sender.send_request(request)).await.expect("in time").expect("an answer");
    let counted = response.into_body().collect().await.expect("whole").to_bytes();
    assert_eq!(counted, (100 * MIB).to_string());
}

#[tokio::test]
async fn trailers_chunks_and_expectations_pass() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (_, port) = App::start().await;
    let host = host(port, &id);
    let answer = raw(
        world.plane.addr(),
        &format!(
            "POST /trailers HTTP/1.1\r\nHost: {host}\r\nTE: trailers\r\nConnection: TE, close\r\nTrailer: x-sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n"
        ),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nbody\r\n"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nx-back: 42\r\n"), "{answer}");

    let mut tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let ask = format!(
        "POST /echo HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    );
    tcp.write_all(ask.as_bytes()).await.expect("asks");
    let go_on = tokio::time::timeout(SOON, head(&mut tcp)).await.expect("in time");
    assert!(go_on.starts_with("HTTP/1.1 100 "), "{go_on}");
    tcp.write_all(b"body").await.expect("sends");
    let mut answer = String::new();
    tokio::time::timeout(SOON, tcp.read_to_string(&mut answer)).await.expect("in time").expect("reads");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("body"), "{answer}");
}

#[tokio::test]
async fn http2_clients_reach_ports_and_the_api() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (_, port) = App::start().await;
    let tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("speaks HTTP/2");
    tokio::spawn(connection);
    let get = |uri: String| {
        let mut sender = sender.clone();
        async move {
            let request = Request::get(uri).header("cookie", "a=1").header("cookie", "b=2");
            let response = sender.send_request(request.body(Empty::<Bytes>::new()).expect("valid"));
            let response = tokio::time::timeout(SOON, response).await.expect("in time").expect("an answer");
            let status = response.status();
            (status, response.into_body().collect().await.expect("whole").to_bytes())
        }
    };
    let host = host(port, &id);
    let answers = join_all((0..20).map(|n| get(format!("http://{host}/file/{n}")))).await;
    for (n, (status, body)) in answers.into_iter().enumerate() {
        assert_eq!((status.as_u16(), &*body), (200, format!("file {n}").as_bytes()));
    }
    let (_, seen) = get(format!("http://{host}/look")).await;
    let seen: Value = serde_json::from_slice(&seen).expect("JSON");
    let headers: Vec<(String, String)> = serde_json::from_value(seen["headers"].clone()).expect("pairs");
    assert!(headers.contains(&("host".to_owned(), host)), "{headers:?}");
    assert!(headers.contains(&("cookie".to_owned(), "a=1; b=2".to_owned())), "{headers:?}");
    assert_eq!(get(format!("http://{}/health", world.plane.addr())).await.0, 200, "the API speaks it too");
}

#[tokio::test]
async fn names_are_read_as_http_says_and_nothing_is_smuggled() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (app, port) = App::start().await;
    let addr = world.plane.addr();
    let name = host(port, &id);
    let upper = format!("{port}-{}.LocalHost", id.to_uppercase());
    let close = "Connection: close\r\n";
    for (line, hosts) in [
        ("GET /file/1 HTTP/1.1".to_owned(), vec![upper]),
        ("GET /file/1 HTTP/1.1".to_owned(), vec![format!("{port}-{id}.example.com.:80")]),
        (format!("GET http://{name}/file/1 HTTP/1.1"), vec!["localhost".to_owned()]),
        ("GET /file/1 HTTP/1.0".to_owned(), vec![name.clone()]),
    ] {
        let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        let answer = raw(addr, &format!("{line}\r\n{hosts}{close}\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.") && answer.contains(" 200 ") && answer.ends_with("file 1"),
            "{line} {hosts}: {answer}"
        );
    }
    // The API's: our own host in absolute form outranks the header.
    let answer = raw(addr, &format!("GET http://{addr}/health HTTP/1.1\r\nHost: {name}\r\n{close}\r\n")).await;
    assert!(answer.contains(" 200 ") && answer.contains("version"), "{answer}");

    let before = app.seen.load(Ordering::Relaxed);
    for (what, request) in [
        ("two hosts", format!("GET /look HTTP/1.1\r\nHost: {name}\r\nHost: localhost\r\n{close}\r\n")),
        ("a user", format!("GET /look HTTP/1.1\r\nHost: u:p@{name}\r\n{close}\r\n")),
        ("a bad port", format!("GET /look HTTP/1.1\r\nHost: 0-{id}.x\r\n{close}\r\n")),
        ("a bad id", format!("GET /look HTTP/1.1\r\nHost: 80-cl-zzzzzzzzzzzzzzzzzzzzzzzzz.x\r\n{close}\r\n")),
        (
            "two lengths",
            format!("POST /look HTTP/1.1\r\nHost: {name}\r\nContent-Length: 1\r\nContent-Length: 2\r\n{close}\r\nab"),
        ),
        (
            "another encoding",
            format!("POST /look HTTP/1.1\r\nHost: {name}\r\nTransfer-Encoding: chunked, gzip\r\n{close}\r\n0\r\n\r\n"),
        ),
        ("a tunnel", format!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{close}\r\n")),
    ] {
        let answer = raw(addr, &request).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{what}: {answer}");
    }
    assert_eq!(app.seen.load(Ordering::Relaxed), before, "the application saw none of them");
    // Of two framings the chunks count, and the guest is told of one only.
    let both = format!(
        "POST /look HTTP/1.1\r\nHost: {name}\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n{close}\r\n2\r\nab\r\n0\r\n\r\n"
    );
    let answer = raw(addr, &both).await;
    assert!(answer.contains("\"body\":\"ab\"") && !answer.contains("[\"content-length\""), "{answer}");
}

#[tokio::test]
async fn broken_answers_break_and_do_not_end() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    for (says, whole) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhalf", true),
        ("HTTP/1.0 200 OK\r\n\r\nhalf", true),
    ] {
        let port = odd_server(move |_, mut tcp| async move {
            head(&mut tcp).await;
            let _ = tcp.write_all(says.as_bytes()).await;
        })
        .await;
        let request = ask(&world, Method::GET, &host(port, &id), "/").body(Full::default()).expect("valid");
        let response = stream(&world, request).await;
        assert_eq!(response.status(), 200);
        let body = tokio::time::timeout(SOON, response.into_body().collect()).await.expect("in time");
        assert_eq!(body.is_ok(), whole, "{says:?}");
    }
    for says in ["", "garbage\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"]
    {
        let port = odd_server(move |_, mut tcp| async move {
            head(&mut tcp).await;
            let _ = tcp.write_all(says.as_bytes()).await;
        })
        .await;
        check_refusal(&fetch(&world, &host(port, &id), "/").await, 502, &format!("port {port} of capsule {id}"));
    }
}

#[tokio::test]
async fn a_connection_hung_up_while_idle_is_replaced() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    // Answers once and hangs up at the next request, as servers do whose keep-alive is over just then.
    let port = odd_server(|_, mut tcp| async move {
        head(&mut tcp).await;
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        head(&mut tcp).await;
    })
    .await;
    for _ in 0..5 {
        let answer = fetch(&world, &host(port, &id), "/").await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, b"ok".as_slice()));
    }
    assert!(world.host.calls("tunnel", &id) >= 2);
}

#[tokio::test]
async fn a_capsule_that_ends_breaks_answers_even_those_that_only_their_end_delimits() {
    for pause in [false, true] {
        let world = World::start().await;
        let id = world.api.create_running().await;
        let port = odd_server(|_, mut tcp| async move {
            head(&mut tcp).await;
            let _ = tcp.write_all(b"HTTP/1.0 200 OK\r\n\r\nhalf").await;
            let _ = tcp.read_u8().await;
        })
        .await;
        let request = ask(&world, Method::GET, &host(port, &id), "/").body(Full::default()).expect("valid");
        let mut response = stream(&world, request).await;
        let first = tokio::time::timeout(SOON, response.frame()).await.expect("in time").expect("more").expect("whole");
        assert_eq!(first.into_data().expect("data"), "half");
        if pause {
            assert_eq!(world.api.act(&id, "pause").await.status, 202);
        } else {
            world.host.crash(&id);
        }
        let rest = tokio::time::timeout(SOON, response.into_body().collect()).await.expect("in time");
        assert!(rest.is_err(), "half an answer must not look whole");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_says_why_and_what_to_do() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (_, port) = App::start().await;
    let unused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").port()
    };
    check_refusal(&fetch(&world, &host(unused, &id), "/").await, 502, "nothing listens on that port");
    check_refusal(&fetch(&world, &host(port, "cl-0000000000000000000000000"), "/").await, 404, "no capsule");
    check_refusal(&fetch(&world, &format!("99999-{id}.x"), "/").await, 400, "1 to 65535");
    check_refusal(&fetch(&world, &host(49983, &id), "/health").await, 401, "X-Access-Token");
    for path in ["/init", "/tunnel?port=80", "/snapshot/freeze", "/%69nit", "//init"] {
        check_refusal(&fetch(&world, &host(49983, &id), path).await, 404, "no such path for users");
    }

    assert_eq!(fetch(&world, &host(port, &id), "/file/1").await.status, 200);
    assert_eq!(world.api.act(&id, "pause").await.status, 202);
    world.api.wait_status(&id, "paused").await;
    check_refusal(&fetch(&world, &host(port, &id), "/file/1").await, 409, &format!("wrenn capsule resume {id}"));
    assert_eq!(world.api.act(&id, "resume").await.status, 202);
    world.api.wait_status(&id, "running").await;
    assert_eq!(fetch(&world, &host(port, &id), "/file/1").await.status, 200, "what was remembered is no hindrance");

    world.host.down().await;
    check_refusal(&fetch(&world, &host(port, &id), "/file/1").await, 503, "host cannot be reached");
    world.host.up().await;
    assert_eq!(fetch(&world, &host(port, &id), "/file/1").await.status, 200);

    assert_eq!(world.api.delete(&format!("/v1/capsules/{id}")).await.status, 202);
    world.api.wait_status(&id, "stopped").await;
    check_refusal(&fetch(&world, &host(port, &id), "/file/1").await, 409, "create a new one");
}

#[tokio::test]
async fn a_request_waits_for_a_capsule_that_starts() {
    let world = World::start().await;
    let (_, port) = App::start().await;
    world.host.behave(|b| b.hold_starts = true);
    let id = world.api.create().await;
    let name = host(port, &id);
    let waiting = fetch(&world, &name, "/file/3");
    let release = async {
        wait_until("the host holds it", SOON, || async {
            (world.host.phase(&id) == Some(SandboxPhase::Starting)).then_some(())
        })
        .await;
        world.host.release_starts();
    };
    let (answer, ()) = tokio::join!(waiting, release);
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, b"file 3".as_slice()));
}

async fn auto_resumed(world: &World) -> String {
    let answer = world.api.post("/v1/capsules", json!({"auto_resume": true})).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["auto_resume"]), (202, &json!(true)));
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    world.api.wait_status(&id, "running").await;
    id
}

#[tokio::test]
async fn traffic_resumes_a_paused_capsule_once_and_waits_for_it() {
    let world = World::start().await;
    let (_, port) = App::start().await;
    let id = auto_resumed(&world).await;
    assert_eq!(world.api.act(&id, "pause").await.status, 202);
    world.api.wait_status(&id, "paused").await;
    world.host.behave(|b| b.hold_resumes = true);
    let name = host(port, &id);
    // With bodies: none of them may be lost on the wait.
    let asks = join_all((0..30).map(|n| {
        let request = ask(&world, Method::POST, &name, "/echo").body(Full::from(format!("body {n}"))).expect("valid");
        world.api.send(request)
    }));
    let release = async {
        wait_until("the host holds it", SOON, || async {
            (world.host.phase(&id) == Some(SandboxPhase::Resuming)).then_some(())
        })
        .await;
        world.host.release_resumes();
    };
    let (answers, ()) = tokio::join!(asks, release);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, format!("body {n}").as_bytes()));
    }
    assert_eq!(world.host.calls("resume", &id), 1);
}

#[tokio::test]
async fn a_host_that_paused_by_itself_is_believed_before_it_has_said_so() {
    let world = World::start().await;
    let (_, port) = App::start().await;
    let id = auto_resumed(&world).await;
    let name = host(port, &id);
    assert_eq!(fetch(&world, &name, "/file/1").await.status, 200);
    for _ in 0..3 {
        world.host.pause_by_timeout(&id);
        assert_eq!(fetch(&world, &name, "/file/1").await.status, 200);
    }
}

#[tokio::test]
async fn a_resume_that_fails_is_said_to_all_who_wait() {
    let world = World::start().await;
    let (_, port) = App::start().await;
    let id = auto_resumed(&world).await;
    assert_eq!(world.api.act(&id, "pause").await.status, 202);
    world.api.wait_status(&id, "paused").await;
    world.host.behave(|b| b.fail_resumes = Some(("agent_error".to_owned(), "its disk is gone".to_owned())));
    let name = host(port, &id);
    for answer in join_all((0..5).map(|_| fetch(&world, &name, "/file/1"))).await {
        check_refusal(&answer, 503, "its disk is gone");
    }
    world.host.behave(|b| b.fail_resumes = None);
    assert_eq!(fetch(&world, &name, "/file/1").await.status, 200);
}

#[tokio::test]
async fn ports_that_are_not_public_open_to_the_teams_keys_only() {
    let world = World::start().await;
    let (_, port) = App::start().await;
    let answer = world.api.post("/v1/capsules", json!({"public_ports": false})).await;
    assert_eq!(answer.json()["public_ports"], false);
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    world.api.wait_status(&id, "running").await;
    let stranger = new_key(&world.database, "others").await;
    let with = async |key: Option<&str>| {
        let mut request = ask(&world, Method::GET, &host(port, &id), "/file/1");
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        world.api.send(request.body(Full::default()).expect("valid")).await
    };
    assert_eq!(with(Some(&world.key)).await.status, 200);
    check_refusal(&with(None).await, 401, "X-API-Key");
    check_refusal(&with(Some("wrn_00000000000000000000000000000000")).await, 401, "not valid");
    check_refusal(&with(Some(&stranger)).await, 404, "no capsule");
    // Also while connections are kept.
    assert_eq!(with(Some(&world.key)).await.status, 200);
    check_refusal(&with(None).await, 401, "X-API-Key");
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn tunnel(world: &World, id: &str, port: u16) -> Result<Socket, u16> {
    let tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let uri = format!("ws://{}/v1/capsules/{id}/ports/{port}/tunnel", world.plane.addr());
    let mut request = uri.into_client_request().expect("valid");
    request.headers_mut().insert("x-api-key", world.key.parse().expect("valid"));
    match tokio_tungstenite::client_async(request, tcp).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_carries_raw_bytes_and_each_end_for_itself() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let port = odd_server(|_, mut tcp| async move {
        let (mut from, mut to) = tcp.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.write_all(b"bye").await;
    })
    .await;
    let socket = tunnel(&world, &id, port).await.expect("upgraded");
    let (mut to, mut from) = socket.split();
    let sent: Vec<u8> = (0..=255u8).cycle().take(3_000_000).collect();
    let feeding = tokio::spawn({
        let sent = sent.clone();
        async move {
            for piece in sent.chunks(70_000) {
                to.send(Message::binary(piece.to_vec())).await.expect("sends");
            }
            to.send(Message::text("eof")).await.expect("sends");
            to
        }
    });
    let mut got = Vec::new();
    loop {
        match tokio::time::timeout(SOON, from.next()).await.expect("in time").expect("open").expect("whole") {
            Message::Binary(bytes) => got.extend_from_slice(&bytes),
            Message::Text(text) => break assert_eq!(text.as_str(), "eof"),
            Message::Ping(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    drop(feeding.await.expect("fed"));
    assert_eq!(got.len(), sent.len() + 3);
    assert!(got.starts_with(&sent) && got.ends_with(b"bye"));

    assert_eq!(tunnel(&world, &id, 49983).await.err(), Some(400));
    assert_eq!(tunnel(&world, &id, 0).await.err(), Some(400));
    assert_eq!(tunnel(&world, "cl-0000000000000000000000000", port).await.err(), Some(404));
    assert_eq!(world.api.act(&id, "pause").await.status, 202);
    world.api.wait_status(&id, "paused").await;
    assert_eq!(tunnel(&world, &id, port).await.err(), Some(409));
}

#[tokio::test]
async fn a_server_that_is_asked_to_end_finishes_what_flows() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (app, port) = App::start().await;
    let request = ask(&world, Method::GET, &host(port, &id), "/events").body(Full::default()).expect("valid");
    let mut response = stream(&world, request).await;
    let first = tokio::time::timeout(SOON, response.frame()).await.expect("in time").expect("more").expect("whole");
    assert_eq!(first.into_data().expect("data"), "data: first\n\n");
    // A server that ends finishes what is under way.
    let ending = tokio::spawn(world.plane.end());
    app.go_on.notify_one();
    let rest = tokio::time::timeout(SOON, response.into_body().collect()).await.expect("in time").expect("whole");
    assert_eq!(rest.to_bytes(), "data: second\n\n");
    tokio::time::timeout(Duration::from_secs(30), ending).await.expect("in time").expect("ends");
}

#[tokio::test]
async fn old_and_talkative_servers_pass_and_others_are_told_apart() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    // Raw on both sides: the libraries of this test would refuse as many headers.
    let answering = async |text: String| {
        let port = odd_server(move |_, mut tcp| {
            let text = text.clone();
            async move {
                head(&mut tcp).await;
                let _ = tcp.write_all(text.as_bytes()).await;
            }
        })
        .await;
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(port, &id));
        raw(world.plane.addr(), &request).await
    };
    let many: String = (0..400).map(|n| format!("X-{n}: v\r\n")).collect();
    let answer = answering(format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("x-399: v\r\n") && answer.ends_with("\r\n\r\nok"),
        "{answer}"
    );
    let answer =
        answering("HTTP/1.1 200 OK\r\nX-Long: one\r\n two\r\nX-Blank : v\r\nContent-Length: 2\r\n\r\nok".to_owned())
            .await;
    let long = answer.lines().find_map(|line| line.strip_prefix("x-long:")).expect("one line");
    assert_eq!(long.split_ascii_whitespace().collect::<Vec<_>>(), ["one", "two"], "{answer}");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nx-blank: v\r\n"), "{answer}");

    let endless = format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "x".repeat(100_000));
    for (text, says) in [
        ("220 ready\r\n\r\n".to_owned(), "did not answer with HTTP/1"),
        (String::new(), "hung up before it answered"),
        (endless, "larger than 64 KiB"),
    ] {
        let answer = answering(text).await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(says), "{says}: {answer}");
    }
}

#[tokio::test]
async fn a_request_with_hundreds_of_headers_reaches_the_server() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let port = odd_server(|_, mut tcp| async move {
        let count = head(&mut tcp).await.lines().filter(|line| line.starts_with("x-n")).count().to_string();
        let _ = tcp
            .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{count}", count.len()).as_bytes())
            .await;
        let _ = tcp.read_u8().await;
    })
    .await;
    let mut request = ask(&world, Method::GET, &host(port, &id), "/");
    for n in 0..180 {
        request = request.header(format!("x-n{n}"), "v");
    }
    let answer = world.api.send(request.body(Full::default()).expect("valid")).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"180"[..]));
}
