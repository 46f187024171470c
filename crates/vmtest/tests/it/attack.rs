//! Attacks of a guest whose root is hostile, and of callers who are, beside a neighbour of another team.
//!
//! ```text
//! attacker's capsule: keeps its CPU busy, as it may ── then attacks
//! neighbour's capsule: one command after the other     quiet | under attack
//! ```
//! Every command of the neighbour must succeed, and its data must be whole afterwards. How much slower they were is printed;
//! `make attack` goes on for longer and judges it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use wrenn_vmtest::{Stack, wait_until};

use crate::Case;

pub const CASES: &[Case] = &[
    ("attack::a_fork_bomb", |stack| guest(stack, "fork bomb", FORK_BOMB)),
    ("attack::a_memory_hog", |stack| guest(stack, "memory hog", MEMORY_HOG)),
    ("attack::a_disk_filler", |stack| guest(stack, "disk filler", DISK_FILLER)),
    ("attack::a_flood_of_the_console", |stack| guest(stack, "console and kernel log flood", CONSOLE_FLOOD)),
    ("attack::a_flood_of_arp", |stack| guest(stack, "ARP flood with ever new senders", ARP_FLOOD)),
    ("attack::a_flood_of_flows", |stack| guest(stack, "flood of UDP flows", FLOW_FLOOD)),
    ("attack::guests_that_fall_silent", silent_guests),
    ("attack::guests_that_reboot", reboots),
    ("attack::readers_that_take_nothing", shut_windows),
    ("attack::heads_that_never_end", slow_heads),
    ("attack::connections_without_a_word", silent_connections),
    ("attack::tunnels_to_a_server_that_says_nothing", tunnels),
];

const FORK_BOMB: &str = "f() { f | f & }; f; sleep 3; f; sleep 1000";
const MEMORY_HOG: &str = "while :; do head -c 1000000000000 /dev/zero | tail; done";
const DISK_FILLER: &str =
    "while :; do head -c 200000000 /dev/urandom > /fill; rm /fill; done & cat /dev/zero > /full; wait";
const CONSOLE_FLOOD: &str = "for at in /dev/console /dev/ttyS0 /dev/hvc0 /dev/kmsg; do [ -c $at ] && (while :; do yes > $at; done) & done; wait";
/// Asks for the gateway as ever new machines, by a raw socket.
const ARP_FLOOD: &str = r#"exec python3 -c '
import socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0x0806))
number = 0
while True:
    number += 1
    mac = bytes([2, 0]) + number.to_bytes(4, "big")
    address = bytes([169, 254, 1 + number // 254 % 254, 1 + number % 254])
    try:
        wire.send(b"\xff" * 6 + mac + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" + mac + address + bytes(6) + bytes([169, 254, 0, 22]))
    except OSError:
        pass
'"#;
/// Opens a flow from every port of its own to one name server.
const FLOW_FLOOD: &str = r#"exec python3 -c '
import socket
while True:
    for port in range(1025, 65535):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
            flow.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                flow.bind(("", port))
                flow.sendto(b"x", ("1.1.1.1", 53))
            except OSError:
                pass
'"#;

/// Commands of the neighbour that are timed before an attack.
const QUIET_CALLS: usize = 20;
/// How long an attack lasts, in seconds, when it is not a short one.
const SECONDS: &str = "WRENN_ATTACK_SECONDS";
const SECONDS_SHORT: u64 = 4;
/// Slower than this, against its quiet self, the neighbour is harmed.
const RATIO_MAX: f64 = 3.0;
/// Longest wait of the neighbour for one command.
const CALL_MAX: Duration = Duration::from_secs(30);
/// Address of the neighbour on this machine: another network than that of hostile callers.
const NEIGHBOUR_ADDRESS: &str = "127.9.9.9";

/// Capsule of another team, whose commands are timed.
struct Neighbour<'a> {
    stack: &'a Stack,
    key: String,
    id: String,
    base: String,
    quiet: Vec<f64>,
}

impl<'a> Neighbour<'a> {
    /// Makes a team, a key and a capsule with data of its own.
    fn new(stack: &'a Stack) -> anyhow::Result<Self> {
        let key = another_team(stack)?;
        let base = stack.value("WRENN_BASE_URL")?;
        let made = stack.wrenn_with(&["capsule", "create"], b"", &[("WRENN_API_KEY", &key)])?.ok()?;
        let neighbour = Self { stack, key, id: made.text(), base, quiet: Vec::new() };
        neighbour.wrenn(&["exec", &neighbour.id, "--", "sh", "-c", "echo precious > data && sync"])?;
        Ok(neighbour)
    }

    fn wrenn(&self, args: &[&str]) -> anyhow::Result<String> {
        Ok(self.stack.wrenn_with(args, b"", &[("WRENN_API_KEY", &self.key)])?.ok()?.text())
    }

    /// Runs a command over REST; the seconds it took.
    ///
    /// # Errors
    /// It was refused, or not answered in time.
    fn call(&self) -> anyhow::Result<f64> {
        let seconds = CALL_MAX.as_secs().to_string();
        let url = format!("{}/v1/capsules/{}/exec", self.base, self.id);
        let key = format!("X-API-Key: {}", self.key);
        let output = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code} %{time_total}", "-m", &seconds])
            .args(["--interface", NEIGHBOUR_ADDRESS, "-H", &key, "-H", "content-type: application/json"])
            .args(["-d", r#"{"cmd":"true"}"#, &url])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (status, took) = text.split_once(' ').with_context(|| format!("curl: {}: {text}", output.status))?;
        ensure!(status == "200", "a command of the neighbour was answered {status} after {took} s");
        Ok(took.parse()?)
    }

    /// Times its commands while nobody attacks.
    fn rest(&mut self) -> anyhow::Result<()> {
        self.quiet = (0..QUIET_CALLS).map(|_| self.call()).collect::<anyhow::Result<_>>()?;
        Ok(())
    }

    /// Runs its commands until the attack has lasted, and prints what it felt.
    fn endure(&self, attack: &str) -> anyhow::Result<()> {
        let (seconds, judged) = match std::env::var(SECONDS) {
            Ok(given) => (given.parse().with_context(|| format!("{SECONDS} is no number of seconds"))?, true),
            Err(_) => (SECONDS_SHORT, false),
        };
        let (begun, lasts) = (Instant::now(), Duration::from_secs(seconds));
        let mut under = Vec::new();
        while begun.elapsed() < lasts || under.len() < QUIET_CALLS {
            under.push(self.call()?);
        }
        let (quiet, felt) = (quantiles(&self.quiet), quantiles(&under));
        let ratio = felt.1 / quiet.1;
        println!(
            "| {attack} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {ratio:.2} |",
            under.len(),
            quiet.0 * 1000.0,
            quiet.1 * 1000.0,
            felt.0 * 1000.0,
            felt.1 * 1000.0
        );
        ensure!(!judged || ratio <= RATIO_MAX, "the neighbour's slowest commands took {ratio:.1} times as long");
        Ok(())
    }

    /// Checks that its data are whole, and removes it.
    fn leave(self) -> anyhow::Result<()> {
        ensure!(self.wrenn(&["exec", &self.id, "--", "cat", "data"])? == "precious", "the neighbour's data");
        self.wrenn(&["capsule", "rm", "--wait", &self.id]).map(drop)
    }
}

/// The median and the 99th percentile.
fn quantiles(times: &[f64]) -> (f64, f64) {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    (at(0.5), at(0.99))
}

/// Makes a team beside the one of the stack, as an admin in a browser does; a key of it.
fn another_team(stack: &Stack) -> anyhow::Result<String> {
    let jar = stack.scratch("attack")?.join("cookies");
    let base = stack.value("WRENN_BASE_URL")?;
    let post = |path: &str, csrf: &str, body: serde_json::Value| -> anyhow::Result<serde_json::Value> {
        let output = Command::new("curl")
            .args(["-s", "--fail-with-body", "-m", "30", "-H", "content-type: application/json", "-H"])
            .arg(format!("X-CSRF-Token: {csrf}"))
            .arg("-b")
            .arg(&jar)
            .arg("-c")
            .arg(&jar)
            .args(["-d", &body.to_string(), &format!("{base}{path}")])
            .output()?;
        ensure!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let (email, password) = (stack.value("WRENN_ADMIN_EMAIL")?, stack.value("WRENN_ADMIN_PASSWORD")?);
    post("/v1/auth/login", "", serde_json::json!({"email": email, "password": password}))?;
    let cookies = std::fs::read_to_string(&jar)?;
    let csrf = cookies.lines().find(|line| line.contains("wrenn_csrf")).and_then(|line| line.split('\t').next_back());
    let csrf = csrf.context("no CSRF cookie")?;
    let name = stack.scratch("attack")?.read_dir()?.count();
    let team = post("/v1/teams", csrf, serde_json::json!({"name": format!("Neighbour {name}")}))?;
    let made = post("/v1/api-keys", csrf, serde_json::json!({"team_id": team["id"], "name": "neighbour"}))?;
    Ok(made["key"].as_str().context("no key")?.to_owned())
}

/// Starts a command as root of a guest, which goes on by itself.
fn attack(stack: &Stack, id: &str, script: &str) -> anyhow::Result<()> {
    stack.wrenn(&["exec", "-d", "-u", "root", id, "--", "sh", "-c", script])?.ok().map(drop)
}

/// Attacks from within a guest.
fn guest(stack: &Stack, name: &str, script: &str) -> anyhow::Result<()> {
    let mut neighbour = Neighbour::new(stack)?;
    let attacker = stack.capsule(&[])?;
    // A guest may use its CPU: what it takes beyond that is the attack.
    attack(stack, &attacker, "while :; do :; done")?;
    neighbour.rest()?;
    attack(stack, &attacker, script)?;
    neighbour.endure(name)?;
    stack.remove(&attacker)?;
    neighbour.leave()
}

/// Guests take their network away, are paused and asked to come back, all at once; nobody else waits for them.
fn silent_guests(stack: &Stack) -> anyhow::Result<()> {
    let mut neighbour = Neighbour::new(stack)?;
    let attackers = [stack.capsule(&["--memory", "256"])?, stack.capsule(&["--memory", "256"])?];
    neighbour.rest()?;
    for id in &attackers {
        attack(stack, id, "ip link set eth0 down")?;
    }
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let calls = attackers.iter().map(|id| {
            scope.spawn(move || {
                // Each is refused or takes long; that is the attacker's business.
                stack.wrenn(&["exec", "--timeout", "20", id, "--", "true"]).map(drop)
            })
        });
        let calls: Vec<_> = calls.collect();
        neighbour.endure("two guests that fell silent, with calls that wait for them")?;
        // Starts are nobody's to hold either.
        let begun = Instant::now();
        let next = neighbour.wrenn(&["capsule", "create"])?;
        println!("a create beside them took {:.1} s", begun.elapsed().as_secs_f64());
        neighbour.wrenn(&["capsule", "rm", "--wait", &next])?;
        for call in calls {
            call.join().map_err(|_| anyhow::anyhow!("a caller died"))??;
        }
        Ok(())
    })?;
    for id in &attackers {
        stack.remove(id)?;
    }
    neighbour.leave()
}

/// Guests that reboot again and again.
fn reboots(stack: &Stack) -> anyhow::Result<()> {
    let mut neighbour = Neighbour::new(stack)?;
    neighbour.rest()?;
    let mut attackers = Vec::new();
    for _ in 0..2 {
        let id = stack.capsule(&["--memory", "256"])?;
        attack(stack, &id, "echo 1 > /proc/sys/kernel/sysrq; echo b > /proc/sysrq-trigger")?;
        attackers.push(id);
    }
    neighbour.endure("guests that reboot")?;
    for id in &attackers {
        stack.remove(id)?;
    }
    neighbour.leave()
}

/// Address of the control plane.
fn control_plane(stack: &Stack) -> anyhow::Result<SocketAddr> {
    let base = stack.value("WRENN_BASE_URL")?;
    base.trim_start_matches("http://").parse().with_context(|| base.clone())
}

/// Resident memory of the control plane in MiB.
fn control_plane_mib(stack: &Stack) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stack.service_pid("control")?))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse::<u64>()? / 1024)
}

/// Whoever asks for large answers and never takes them costs no memory for each.
fn shut_windows(stack: &Stack) -> anyhow::Result<()> {
    /// Connections of one network.
    const CONNECTIONS: usize = 30;
    /// Memory that all of them may cost together.
    const MIB_MAX: u64 = 64;
    let mut neighbour = Neighbour::new(stack)?;
    neighbour.rest()?;
    let (at, before) = (control_plane(stack)?, control_plane_mib(stack)?);
    let path = "/docs/swagger-ui-bundle.js";
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut first = TcpStream::connect(at)?;
        write!(first, "GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n")?;
        let mut second = TcpStream::connect(at)?;
        second.write_all(&shut_window_requests(path, &at.to_string()))?;
        held.extend([first, second]);
    }
    neighbour.endure("readers of HTTP/1 and HTTP/2 that take nothing")?;
    let grown = control_plane_mib(stack)?.saturating_sub(before);
    println!("{} of them cost the control plane {grown} MiB", held.len());
    ensure!(grown <= MIB_MAX, "the control plane grew by {grown} MiB");
    drop(held);
    neighbour.leave()
}

/// Bytes of an HTTP/2 connection that asks a hundred times for a path and opens no window.
fn shut_window_requests(path: &str, host: &str) -> Vec<u8> {
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
    fn text(block: &mut Vec<u8>, name: u8, value: &str) {
        block.extend([name, u8::try_from(value.len()).unwrap_or_default()]);
        block.extend(value.bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    bytes.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    for number in 0..100 {
        // :method GET and :scheme http by index, :path and :authority as literals that are not indexed (RFC 7541, 6.2.2).
        let mut block = vec![0x82, 0x86];
        text(&mut block, 0x04, path);
        text(&mut block, 0x01, host);
        bytes.extend(frame(1, 0x5, number * 2 + 1, &block));
    }
    bytes
}

/// Requests whose heads come byte by byte.
fn slow_heads(stack: &Stack) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 300;
    let mut neighbour = Neighbour::new(stack)?;
    neighbour.rest()?;
    let at = control_plane(stack)?;
    let mut held = (0..CONNECTIONS).map(|_| TcpStream::connect(at)).collect::<Result<Vec<_>, _>>()?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for byte in b"GET /v1/capsules HTTP/1.1\r\nX-Padding: ".iter().chain(std::iter::repeat(&b'a')) {
                for stream in &mut held {
                    // It may have been closed, as it should.
                    let _ = stream.write_all(&[*byte]);
                }
                if over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let felt = neighbour.endure("slow heads");
        over.store(true, Ordering::Relaxed);
        felt
    })?;
    neighbour.leave()
}

/// Many connections of one network that say nothing: no other network is kept out.
fn silent_connections(stack: &Stack) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 1000;
    let mut neighbour = Neighbour::new(stack)?;
    neighbour.rest()?;
    let at = control_plane(stack)?;
    let held = (0..CONNECTIONS).map(|_| TcpStream::connect(at)).collect::<Result<Vec<_>, _>>()?;
    neighbour.endure("1000 connections without a word")?;
    drop(held);
    neighbour.leave()
}

/// Many connections to a server in a capsule that takes them and never answers: other capsules' ports and commands go on.
fn tunnels(stack: &Stack) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 512;
    let mut neighbour = Neighbour::new(stack)?;
    let attacker = stack.capsule(&[])?;
    neighbour.rest()?;
    let listen = "exec python3 -c '
import socket, time
server = socket.create_server((\"\", 8000), backlog=4096)
held = []
while True:
    held.append(server.accept())
'";
    attack(stack, &attacker, listen)?;
    wait_until("the attacker's server listens", Duration::from_secs(60), || {
        Ok(stack.exec(&attacker, &["envd", "ports"])?.lines().any(|line| line.starts_with("8000")))
    })?;
    let at = control_plane(stack)?;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(at)?;
        write!(stream, "GET / HTTP/1.1\r\nHost: 8000-{attacker}.localhost\r\n\r\n")?;
        held.push(stream);
    }
    neighbour.endure("512 tunnels to a server that says nothing")?;
    // The neighbour's own port answers beside them: nothing listens there, and the proxy says so.
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(CALL_MAX))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: 8000-{}.localhost\r\nConnection: close\r\n\r\n", neighbour.id)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("nothing listens"), "{answer}");
    drop(held);
    stack.remove(&attacker)?;
    neighbour.leave()
}
