//! Traffic from outside to ports of a real guest, over its name at the control plane.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use wrenn_vmtest::{Stack, wait_until};

use crate::Case;

pub const CASES: &[Case] = &[
    ("ports::servers_of_a_guest_are_reached_wherever_they_listen", everywhere),
    ("ports::traffic_brings_a_paused_capsule_back", comes_back),
];

const SOON: Duration = Duration::from_secs(60);

/// One request; the whole answer as text.
fn get(stack: &Stack, id: &str, port: u16, path: &str) -> anyhow::Result<String> {
    let base = stack.value("WRENN_BASE_URL")?;
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).context("no control plane")?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {port}-{id}.localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// An HTTP server in the guest: another envd, whose /health needs no token.
fn serve(stack: &Stack, id: &str, listen: &str) -> anyhow::Result<()> {
    let run = format!("--run-dir=/tmp/{}", listen.replace([':', '[', ']', '.'], "-"));
    let command = ["envd", "--no-system", "--cgroup-root=/tmp", "--listen", listen, &run];
    let mut all = vec!["exec", "-d", id, "--"];
    all.extend_from_slice(&command);
    stack.wrenn(&all)?.ok().map(drop)
}

fn wait_served(stack: &Stack, id: &str, port: u16) -> anyhow::Result<()> {
    wait_until(&format!("port {port} of {id} answers"), SOON, || {
        let answer = get(stack, id, port, "/health")?;
        Ok(answer.starts_with("HTTP/1.1 200 ") && answer.contains("version"))
    })
}

fn everywhere(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let nobody = get(stack, &id, 8000, "/")?;
    ensure!(nobody.starts_with("HTTP/1.1 502 ") && nobody.contains("nothing listens"), "{nobody}");
    for (port, listen) in [(8001, "127.0.0.1:8001"), (8002, "0.0.0.0:8002"), (8003, "[::1]:8003")] {
        serve(stack, &id, listen)?;
        wait_served(stack, &id, port)?;
    }
    let listed = stack.exec(&id, &["envd", "ports"])?;
    for (port, via) in [("8001", "loopback"), ("8002", "direct"), ("8003", "loopback")] {
        let line = listed.lines().find(|line| line.starts_with(port)).with_context(|| listed.clone())?;
        ensure!(line.contains("envd") && line.contains(via) && line.contains(&id), "{line}");
    }
    let own = get(stack, &id, 49983, "/health")?;
    ensure!(own.starts_with("HTTP/1.1 401 "), "{own}");
    stack.remove(&id)
}

fn comes_back(stack: &Stack) -> anyhow::Result<()> {
    let (still, comes) = (stack.capsule(&[])?, stack.capsule(&["--auto-resume"])?);
    for id in [&still, &comes] {
        serve(stack, id, "127.0.0.1:8001")?;
        wait_served(stack, id, 8001)?;
        stack.wrenn(&["capsule", "pause", id])?.ok()?;
    }
    let refused = get(stack, &still, 8001, "/health")?;
    ensure!(refused.starts_with("HTTP/1.1 409 ") && refused.contains("wrenn capsule resume"), "{refused}");
    // One request is enough, and it is the one that is answered.
    let answer = get(stack, &comes, 8001, "/health")?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("version"), "{answer}");
    ensure!(stack.status(&comes)? == "running", "it runs");
    stack.remove(&still)?;
    stack.remove(&comes)
}
