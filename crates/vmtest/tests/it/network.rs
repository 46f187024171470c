//! What a guest can and cannot reach. The "internet" is a namespace of the test's own with a public address, so nothing
//! leaves this machine.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use wrenn_vmtest::Stack;

use crate::Case;

pub const CASES: &[Case] = &[
    ("network::a_guest_reaches_public_addresses_and_no_private_ones", egress),
    ("network::guests_reach_neither_each_other_nor_the_host", isolation),
    ("network::packets_with_another_source_go_nowhere", spoofing),
    ("network::a_guest_asks_the_name_servers_it_was_given", name_servers),
];

/// Public addresses of the test's own world: routed on this machine only.
const PUBLIC: &str = "93.184.216.34";
/// A private address in the same place.
const PRIVATE: &str = "10.201.0.1";
const PORT: &str = "8480";

/// A namespace that stands for everything beyond the host.
struct World {
    name: String,
    stop: Arc<AtomicBool>,
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let world = Self { name: format!("wworld{}", std::process::id()), stop: Arc::default() };
        let name = world.name.clone();
        ip(&["netns", "add", &name])?;
        ip(&["link", "add", "wworld0", "type", "veth", "peer", "name", "world0", "netns", &name])?;
        ip(&["addr", "add", "198.18.0.1/30", "dev", "wworld0"])?;
        ip(&["link", "set", "wworld0", "up"])?;
        for address in ["198.18.0.2/30".to_owned(), format!("{PUBLIC}/32"), format!("{PRIVATE}/32")] {
            ip(&["-n", &name, "addr", "add", &address, "dev", "world0"])?;
        }
        ip(&["-n", &name, "link", "set", "world0", "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "route", "add", "default", "via", "198.18.0.1"])?;
        for address in [PUBLIC, PRIVATE] {
            ip(&["route", "add", &format!("{address}/32"), "via", "198.18.0.2"])?;
        }
        Ok(world)
    }

    /// Answers every connection with the caller's address. The socket belongs to the namespace it was opened in.
    fn serve(self) -> anyhow::Result<Self> {
        let space = std::fs::File::open(format!("/run/netns/{}", self.name))?;
        let opened = std::thread::spawn(move || {
            nix::sched::setns(&space, nix::sched::CloneFlags::CLONE_NEWNET)?;
            anyhow::Ok(TcpListener::bind(("0.0.0.0", PORT.parse::<u16>()?))?)
        });
        let listener = opened.join().map_err(|_| anyhow::anyhow!("the thread in the namespace died"))??;
        let stop = Arc::clone(&self.stop);
        listener.set_nonblocking(true)?;
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, from)) => drop(answer(stream, &from.ip().to_string())),
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(self)
    }
}

fn answer(mut stream: TcpStream, text: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut request = [0u8; 4096];
    let _ = stream.read(&mut request)?;
    stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{text}").as_bytes())
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = ip(&["link", "del", "wworld0"]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("ip").args(args).output()?;
    ensure!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a guest gets from an address within three seconds; `None` when nothing.
fn fetch(stack: &Stack, id: &str, address: &str, port: &str) -> anyhow::Result<Option<String>> {
    let url = format!("http://{address}:{port}/");
    let answer = stack.wrenn(&["exec", id, "--", "curl", "-s", "-m", "3", &url])?;
    Ok((answer.code == Some(0)).then(|| answer.text()))
}

fn egress(stack: &Stack) -> anyhow::Result<()> {
    let _world = World::new()?.serve()?;
    let id = stack.capsule(&[])?;
    let seen = fetch(stack, &id, PUBLIC, PORT)?.context("a public address must be reachable")?;
    ensure!(seen == "198.18.0.1", "it must leave under the host's address, not {seen}");
    // The same server at the same end of the same cable, by a private name.
    ensure!(fetch(stack, &id, PRIVATE, PORT)?.is_none(), "a private address was reached");
    ensure!(fetch(stack, &id, "198.18.0.2", PORT)?.is_none(), "a special-purpose address was reached");
    stack.remove(&id)
}

/// Addresses of every namespace's end of its cable to the host.
fn inner_addresses() -> anyhow::Result<Vec<String>> {
    let names = ip(&["netns", "list"])?;
    let mut found = Vec::new();
    for name in names.lines().filter_map(|l| l.split_whitespace().next()).filter(|n| n.starts_with("wrenn-")) {
        // One that is just being made has no addresses yet.
        let Ok(shown) = ip(&["-n", name, "-4", "-o", "addr", "show", "dev", "up0"]) else { continue };
        found.extend(shown.split_whitespace().filter_map(|w| w.strip_suffix("/31")).map(str::to_owned));
    }
    Ok(found)
}

/// Probes them all at the same time from within the guest, and prints those that answered in time.
const PROBE: &str = "for at; do curl -s -m 10 -o /dev/null http://$at/ && echo $at & done; wait";

fn isolation(stack: &Stack) -> anyhow::Result<()> {
    let _world = World::new()?.serve()?;
    let (one, two) = (stack.capsule(&["--memory", "256"])?, stack.capsule(&["--memory", "256"])?);
    let inner = inner_addresses()?;
    ensure!(inner.len() >= 2, "{inner:?}");
    let envds = inner.iter().map(|address| format!("{address}:49983"));
    // A server of the host's on every address, and the host's ends of all cables.
    let listener = std::net::TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let shown = ip(&["-4", "-o", "addr", "show"])?;
    let host = shown.split_whitespace().filter_map(|w| w.split_once('/')).map(|(address, _)| address);
    let ours = host.filter(|a| !a.starts_with("127.") && a.parse::<std::net::Ipv4Addr>().is_ok());
    let hosts = ours.chain(["169.254.0.22"]).map(|address| format!("{address}:{port}"));
    // One that may be reached, so that the silence of the others means something.
    let public = format!("{PUBLIC}:{PORT}");
    let all: Vec<String> = envds.chain(hosts).chain([public.clone()]).collect();
    let command = ["sh", "-c", PROBE, "probe"].into_iter().chain(all.iter().map(String::as_str));
    let reached = stack.exec(&one, &command.collect::<Vec<_>>())?;
    ensure!(reached.trim() == public, "reached: {reached}");
    stack.remove(&one)?;
    stack.remove(&two)
}

fn spoofing(stack: &Stack) -> anyhow::Result<()> {
    let _world = World::new()?.serve()?;
    let id = stack.capsule(&[])?;
    let root = |script: &str| stack.wrenn(&["exec", "-u", "root", &id, "--", "sh", "-c", script]);
    root("ip addr add 169.254.0.99/32 dev eth0 && ip addr add 93.184.216.35/32 dev eth0")?.ok()?;
    for source in ["169.254.0.99", "93.184.216.35"] {
        let tried = root(&format!("curl -s -m 3 --interface {source} http://{PUBLIC}:{PORT}/"))?;
        ensure!(tried.code != Some(0), "a packet from {source} came through: {tried:?}");
    }
    // Its own address still works, so the silence above is the rule's.
    ensure!(fetch(stack, &id, PUBLIC, PORT)?.is_some());
    // IPv6 is none of its business.
    let six = root("ping -6 -c 1 -W 1 ff02::1%eth0 2>&1; cat /proc/net/if_inet6")?;
    ensure!(!six.text().contains("1 received"), "{six:?}");
    stack.remove(&id)
}

fn name_servers(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let shown = stack.exec(&id, &["cat", "/etc/resolv.conf"])?;
    ensure!(shown == "nameserver 1.1.1.1\nnameserver 8.8.8.8", "{shown}");
    stack.remove(&id)
}
