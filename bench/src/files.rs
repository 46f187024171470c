//! 256 MiB into and out of a capsule through REST, against a bare TCP copy through the same guest network to and from the
//! same disk.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use wrenn_vmtest::Stack;

use crate::Bench;
use crate::guest::Guest;
use crate::report::{Bound, Report};

const PORT: u16 = 9000;

/// Runs the section.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let bytes: usize = if bench.quick { 32 } else { 256 } * 1024 * 1024;
    let id = bench.stack.capsule(&["--memory", "1024"])?;
    let guest = Guest::find(&bench.stack.dir().join("wrenn"), &id)?;
    let data: Vec<u8> = (0..bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let dir = bench.stack.scratch("bench-files")?;
    let (source, back) = (dir.join("in"), dir.join("out"));
    std::fs::write(&source, &data)?;
    let runs = bench.runs(3);
    let mut best = [f64::MIN; 4];
    for _ in 0..runs {
        let figures = [
            plain_up(bench.stack, &id, &guest, &data)?,
            copy(bench.stack, &source.display().to_string(), &format!("{id}:up"), bytes)?,
            plain_down(bench.stack, &id, &guest, &data)?,
            copy(bench.stack, &format!("{id}:up"), &back.display().to_string(), bytes)?,
        ];
        ensure!(std::fs::read(&back)? == data, "the file changed on its way");
        for (best, figure) in best.iter_mut().zip(figures) {
            *best = best.max(figure);
        }
    }
    report.against("file up through REST", "MB/s", best[1], best[0], Some(Bound::AtLeast(0.6)), runs);
    report.against("file down through REST", "MB/s", best[3], best[2], Some(Bound::AtLeast(0.6)), runs);
    bench.stack.remove(&id)
}

/// `wrenn cp`: the command line, REST, the control plane, the agent, envd.
fn copy(stack: &Stack, from: &str, to: &str, bytes: usize) -> anyhow::Result<f64> {
    let begin = Instant::now();
    stack.wrenn(&["cp", from, to])?.ok()?;
    Ok(megabytes_a_second(bytes, begin.elapsed()))
}

fn megabytes_a_second(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

/// Bytes over one TCP connection into a file of the guest.
fn plain_up(stack: &Stack, id: &str, guest: &Guest, data: &[u8]) -> anyhow::Result<f64> {
    let listen = format!("TCP-LISTEN:{PORT},reuseaddr");
    stack.wrenn(&["exec", "-d", id, "--", "socat", "-u", "-b", "262144", &listen, "CREATE:plain"])?.ok()?;
    let mut stream = connect(guest)?;
    let begin = Instant::now();
    stream.write_all(data)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // The guest closes when it has written everything.
    stream.read_to_end(&mut Vec::new())?;
    Ok(megabytes_a_second(data.len(), begin.elapsed()))
}

/// Bytes of a file of the guest over one TCP connection.
fn plain_down(stack: &Stack, id: &str, guest: &Guest, data: &[u8]) -> anyhow::Result<f64> {
    let listen = format!("TCP-LISTEN:{PORT},reuseaddr");
    stack.wrenn(&["exec", "-d", id, "--", "socat", "-u", "-b", "262144", "OPEN:plain", &listen])?.ok()?;
    let mut stream = connect(guest)?;
    let begin = Instant::now();
    let mut got = Vec::with_capacity(data.len());
    stream.read_to_end(&mut got)?;
    let figure = megabytes_a_second(data.len(), begin.elapsed());
    ensure!(got == data, "the plain copy changed the file");
    Ok(figure)
}

/// socat needs a moment to listen.
fn connect(guest: &Guest) -> anyhow::Result<std::net::TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match guest.connect(PORT) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => return Err(error).context("nobody listens in the guest"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
