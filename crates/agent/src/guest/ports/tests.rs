//! A network namespace stands for the guest: its loopback carries the guest's address, plain sockets are its servers, and a real
//! envd speaks for its loopback. Needs root, as the agent does.

use std::net::{Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use wrenn_contract::guest::{GUEST_ADDR, HEALTH, INIT, Init, PORT};
use wrenn_domain::limits::PORT_CONNECTIONS_MAX;
use wrenn_linux::links::Links;
use wrenn_linux::netns::{self, Netns};

use super::*;

const SOON: Duration = Duration::from_secs(20);

struct World {
    guest: Arc<GuestClient>,
    netns: Arc<Netns>,
    touched: Arc<AtomicUsize>,
    addr: SocketAddr,
    serving: JoinHandle<()>,
    envd: Option<(Child, tempfile::TempDir)>,
}

#[derive(Clone)]
struct Doors {
    pool: Arc<HostPool>,
    guest: Arc<GuestClient>,
    touched: Arc<AtomicUsize>,
}

async fn door(State(doors): State<Doors>, Path(port): Path<u16>, request: Request) -> Response<Body> {
    let touched = doors.touched;
    let activity = Arc::new(move || {
        touched.fetch_add(1, Ordering::Relaxed);
    });
    tunnel(&doors.guest, port, request, activity, &doors.pool)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.code()).into_response())
}

impl World {
    async fn start() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wrt{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let netns = Arc::new(Netns::create(&name).expect("a namespace; this test needs root"));
        Links::inside(&netns).expect("netlink").configure("lo", GUEST_ADDR, 32).await.expect("an address");
        let guest = Arc::new(GuestClient::new(netns.clone(), "the-token").expect("a token"));
        let touched = Arc::new(AtomicUsize::new(0));
        let doors = Doors { pool: Arc::new(HostPool::new(4096, 64)), guest: guest.clone(), touched: touched.clone() };
        let app = axum::Router::new().route("/{port}", axum::routing::get(door)).with_state(doors);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        Self { guest, netns, touched, addr, serving, envd: None }
    }

    /// The same with envd in the guest; none, said aloud, when none is built.
    async fn with_envd() -> Option<Self> {
        let named = std::env::var_os("WRENN_TEST_ENVD").map(PathBuf::from);
        let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("envd"));
        let Some(program) = named.or_else(beside).filter(|path| path.exists()) else {
            eprintln!("SKIPPED: no envd (build it with `cargo build -p wrenn-envd` or set WRENN_TEST_ENVD)");
            return None;
        };
        let mut world = Self::start().await;
        let home = tempfile::tempdir().expect("a directory");
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", world.netns.name()))
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(["--no-system", "--listen", &format!("{GUEST_ADDR}:{PORT}"), "--run-dir"])
            .arg(home.path().join("run"))
            .arg("--cgroup-root")
            .arg(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("envd starts");
        world.envd = Some((child, home));
        let init = Init { access_token: Some("the-token".to_owned()), ..Init::default() };
        let deadline = Instant::now() + SOON;
        loop {
            let ask = Request::get(HEALTH).body(Body::empty()).expect("valid");
            if world.guest.send(ask).await.is_ok() {
                break;
            }
            assert!(Instant::now() < deadline, "envd did not answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let body = serde_json::to_vec(&init).expect("JSON");
        let answer = world.guest.send(Request::post(INIT).body(Body::from(body)).expect("valid")).await;
        assert_eq!(answer.expect("an answer").status(), 200);
        Some(world)
    }

    /// A listener inside the guest.
    fn listen(&self, address: impl Into<std::net::IpAddr>) -> (TcpListener, u16) {
        let address = SocketAddr::new(address.into(), 0);
        let listener = self.netns.run(|| StdListener::bind(address)).expect("a port in the guest");
        listener.set_nonblocking(true).expect("non-blocking");
        let port = listener.local_addr().expect("bound").port();
        (TcpListener::from_std(listener).expect("a listener"), port)
    }

    /// The upgrade's answer, and the connection after it.
    async fn open(&self, port: u16) -> (String, TcpStream) {
        let mut stream = TcpStream::connect(self.addr).await.expect("connects");
        let ask = format!("GET /{port} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: wrenn-tcp\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.expect("asks");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(in_time(stream.read_u8()).await.expect("an answer"));
        }
        (String::from_utf8(head).expect("text"), stream)
    }

    async fn tunnel(&self, port: u16) -> TcpStream {
        let (head, stream) = self.open(port).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream
    }

    /// The code of a refusal.
    async fn refused(&self, port: u16) -> String {
        let (head, mut stream) = self.open(port).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        let length = head.to_ascii_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        stream.read_exact(&mut body).await.expect("a body");
        String::from_utf8(body).expect("text")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.serving.abort();
        if let Some((child, _home)) = &mut self.envd {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = netns::remove(self.netns.name());
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.expect("in time")
}

/// Answers every byte, and the end with a last word.
fn echo(listener: TcpListener) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.write_all(b"bye").await;
            });
        }
    });
}

/// Sends much, says that it was all, and gets it back with the last word.
async fn check_echo(stream: TcpStream) {
    let sent: Vec<u8> = (0..=255u8).cycle().take(3_000_000).collect();
    let (mut from, mut to) = stream.into_split();
    let feeding = tokio::spawn({
        let sent = sent.clone();
        async move {
            to.write_all(&sent).await.expect("sends");
            to.shutdown().await.expect("ends");
            to
        }
    });
    let mut got = Vec::new();
    in_time(from.read_to_end(&mut got)).await.expect("reads");
    drop(feeding.await.expect("fed"));
    assert_eq!(got.len(), sent.len() + 3);
    assert!(got.starts_with(&sent) && got.ends_with(b"bye"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_both_ways_and_each_end_for_itself() {
    let world = World::start().await;
    let (listener, port) = world.listen(GUEST_ADDR);
    echo(listener);
    check_echo(world.tunnel(port).await).await;
    assert!(world.touched.load(Ordering::Relaxed) >= 1, "it counts as activity");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_the_guests_loopback_are_reached_and_nobody_is_said_to_be_nobody() {
    let Some(world) = World::with_envd().await else { return };
    for address in [std::net::IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
        let (listener, port) = world.listen(address);
        echo(listener);
        check_echo(world.tunnel(port).await).await;
    }
    let (listener, port) = world.listen([127, 0, 0, 1]);
    drop(listener);
    assert_eq!(world.refused(port).await, "refused");
    // Without an upgrade envd's route does nothing, so the relay cannot open one either.
    let plain = Request::get(format!("{TUNNEL}?port={port}")).body(Body::empty()).expect("valid");
    assert_eq!(world.guest.send(plain).await.expect("an answer").status(), 426);
}

#[tokio::test]
async fn a_guest_without_an_agent_is_unresponsive_rather_than_waited_for() {
    let world = World::start().await;
    let (listener, port) = world.listen(GUEST_ADDR);
    drop(listener);
    assert_eq!(world.refused(port).await, "unresponsive");
    let mut stream = TcpStream::connect(world.addr).await.expect("connects");
    stream.write_all(format!("GET /{port} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("asks");
    let mut head = [0; 12];
    in_time(stream.read_exact(&mut head)).await.expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 426");
}

#[tokio::test]
async fn a_guest_that_ends_resets_its_tunnels() {
    let world = World::start().await;
    let (listener, port) = world.listen(GUEST_ADDR);
    let mut stream = world.tunnel(port).await;
    let (mut guest, _) = in_time(listener.accept()).await.expect("dialled");
    guest.write_all(b"half an ans").await.expect("answers");
    let mut half = [0; 11];
    in_time(stream.read_exact(&mut half)).await.expect("half of it");
    world.guest.disconnect();
    let ended = in_time(stream.read_u8()).await.expect_err("no more");
    assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset, "not to be taken for the end of the answer");
    assert_eq!(world.refused(port).await, "not_running");
}

#[tokio::test]
async fn an_answer_passes_whole_when_the_server_stops_reading_the_request() {
    let world = World::start().await;
    let (listener, port) = world.listen(GUEST_ADDR);
    let mut stream = world.tunnel(port).await;
    let (guest, _) = in_time(listener.accept()).await.expect("dialled");
    let (from, mut to) = guest.into_split();
    // What it does not read any more is refused by its kernel only after it closed; here it merely stops.
    to.write_all(b"413 too large").await.expect("answers");
    to.shutdown().await.expect("ends");
    let mut got = Vec::new();
    in_time(stream.read_to_end(&mut got)).await.expect("reads");
    assert_eq!(got, b"413 too large");
    drop(from);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_has_so_many_tunnels_and_the_longest_idle_one_goes_for_another() {
    let world = World::start().await;
    let (listener, port) = world.listen(GUEST_ADDR);
    echo(listener);
    let mut open = Vec::new();
    for _ in 0..PORT_CONNECTIONS_MAX {
        open.push(world.tunnel(port).await);
    }
    // The first one is used later than the second.
    let mut first = open.remove(0);
    in_time(first.write_all(b"x")).await.expect("it is open");
    assert_eq!(in_time(first.read_u8()).await.expect("an echo comes back"), b'x');
    let newest = world.tunnel(port).await;
    let mut second = open.remove(0);
    let ended = in_time(second.read_u8()).await.expect_err("the longest idle one has ended");
    assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
    for stream in [first, newest, open.remove(0)] {
        check_echo(stream).await;
    }
}
