//! What streams weigh, measured at a control plane in a process of its own.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use tokio::process::Child;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use wrenn_testkit::host::{Guest, find_envd};
use wrenn_testkit::{Database, SimHost, wait_until};

use super::{Socket, background, hear, open, say};
use crate::harness::{Api, SOON, host_is_known};
use crate::program;

struct Apart {
    child: Child,
    addr: String,
    key: String,
    api: Api,
    _host: SimHost,
    _database: Database,
}

impl Apart {
    async fn start() -> Option<Self> {
        let found = find_envd().ok_or("build it with `cargo build -p wrenn-envd`, or set WRENN_TEST_ENVD");
        let envd = wrenn_testkit::skip::require("envd", found)?;
        let database = Database::empty().await;
        let host = SimHost::start(Guest::Envd(envd)).await;
        let key = program::key(&database, &host).await;
        let addr = program::free_port();
        let child = program::serve(&database, &host, &addr);
        let api = Api::at(&addr, &key);
        wait_until("it answers", SOON, || async { api.try_get("/health").await.filter(|a| a.status == 200).map(drop) })
            .await;
        host_is_known(&database).await;
        Some(Self { child, addr, key, api, _host: host, _database: database })
    }

    async fn open(&self, path: &str) -> Socket {
        open(&self.addr, &self.key, &format!("/v1/capsules/{path}")).await
    }

    /// KiB of memory that are its own: what it shares with files does not count.
    fn memory_kib(&self) -> u64 {
        let pid = self.child.id().expect("runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a line");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }
}

const IDLE: u64 = 500;
const IDLE_KIB_MAX: u64 = 32;

#[tokio::test]
async fn an_idle_stream_weighs_less_than_thirty_two_kilobytes() {
    let Some(apart) = Apart::start().await else { return };
    let mut capsules = Vec::new();
    for _ in 0..5 {
        let id = apart.api.create_running().await;
        for job in ["a", "b"] {
            background(&apart.api, &id, job, "sleep 1000").await;
        }
        capsules.push(id);
    }
    let open_one = async |number: u64| {
        let id = &capsules[number as usize % capsules.len()];
        let job = if number.is_multiple_of(2) { "a" } else { "b" };
        let mut socket = match number % 4 {
            0 | 1 => apart.open(&format!("{id}/processes/{job}/stream")).await,
            _ => {
                let mut socket = apart.open(&format!("{id}/pty")).await;
                say(&mut socket, json!({"type": "connect", "tag": job})).await;
                socket
            }
        };
        let first = hear(&mut socket).await.expect("a frame");
        assert!(matches!(first["type"].as_str(), Some("start" | "started")), "{first}");
        socket
    };
    // The first ones also pay for what is made once.
    let mut sockets = futures::stream::iter(0..40).map(open_one).buffered(8).collect::<Vec<_>>().await;
    let before = apart.memory_kib();
    sockets.extend(futures::stream::iter(0..IDLE - 40).map(open_one).buffered(8).collect::<Vec<_>>().await);
    let each = (apart.memory_kib() - before) as f64 / (IDLE - 40) as f64;
    println!("{each:.1} KiB for each idle stream");
    assert!(each < IDLE_KIB_MAX as f64, "{each:.1} KiB for each idle stream");
}

const PRINTED: usize = 100_000_000;
const READ_PER_SEC: usize = 5_000_000;
const MEMORY_KIB_MAX: u64 = 100_000;

#[tokio::test]
async fn a_hundred_megabytes_for_a_slow_reader_arrive_whole_and_are_never_held() {
    let Some(apart) = Apart::start().await else { return };
    let id = apart.api.create_running().await;
    let mut socket = apart.open(&format!("{id}/exec/stream")).await;
    let cmd = format!("yes 0123456789abcde | head -c {PRINTED}");
    say(&mut socket, json!({"type": "start", "cmd": cmd, "binary": true})).await;
    assert_eq!(hear(&mut socket).await.expect("a frame")["type"], "start");
    let (began, mut seen, mut most) = (Instant::now(), 0, 0);
    let last = loop {
        match tokio::time::timeout(SOON, socket.next()).await.expect("in time").expect("open").expect("whole") {
            Message::Binary(frame) => {
                assert_eq!(frame[0], 1);
                let expected = b"0123456789abcde\n".iter().cycle().skip(seen % 16);
                assert!(frame[1..].iter().eq(expected.take(frame.len() - 1)), "at byte {seen}");
                seen += frame.len() - 1;
                most = most.max(apart.memory_kib());
                tokio::time::sleep_until(began + Duration::from_secs_f64(seen as f64 / READ_PER_SEC as f64)).await;
            }
            Message::Text(text) => break serde_json::from_str::<serde_json::Value>(&text).expect("JSON"),
            _ => {}
        }
    };
    println!("{most} KiB at most");
    assert_eq!((seen, last), (PRINTED, json!({"type": "exit", "exit_code": 0})));
    assert!(most < MEMORY_KIB_MAX, "{most} KiB");
}
