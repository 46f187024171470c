//! Output: all of it, in order, however slowly it is read, and again for those who come later.

use std::time::{Duration, Instant};

use super::*;

/// Every byte value, then a long tail.
const BINARY: &str =
    r#"i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done; printf '\0\0\377'"#;

#[tokio::test]
async fn every_byte_passes() {
    let envd = Envd::start().await;
    let said = run(&envd, script(BINARY)).await;
    let expected: Vec<u8> = (0..=255).chain([0, 0, 255]).collect();
    assert_eq!(said.stdout, expected);
}

#[tokio::test]
async fn a_slow_reader_gets_a_hundred_megabytes_whole_and_envd_stays_small() {
    const BYTES: usize = 100_000_000;
    let envd = Envd::start().await;
    let idle = envd.status_number("VmRSS");
    // Numbered lines of ten bytes: a lost, doubled or swapped piece shows.
    let mut events = start(&envd.processes(), script(&format!("seq -f %09.0f 1 {}", BYTES / 10))).await;
    events.pid().await;
    let (mut seen, mut line, mut pieces) = (0usize, Vec::new(), 0);
    let mut number = 0u32;
    loop {
        match events.next().await.expect("no error").expect("an end first") {
            Event::Stdout(bytes) => {
                seen += bytes.len();
                for byte in bytes {
                    if byte == b'\n' {
                        number += 1;
                        assert_eq!(std::str::from_utf8(&line).expect("digits").parse(), Ok(number));
                        line.clear();
                    } else {
                        line.push(byte);
                    }
                }
                pieces += 1;
                // The slowness itself.
                tokio::time::sleep(Duration::from_micros(if pieces == 1 { 300_000 } else { 300 })).await;
            }
            Event::End(end) => {
                assert_eq!(end.exit_code, 0);
                break;
            }
            Event::KeepAlive => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, BYTES);
    let peak = envd.status_number("VmHWM");
    eprintln!("envd: {idle} KiB idle, {peak} KiB at most, {pieces} pieces");
    assert!(peak < idle + 12 * 1024, "{idle} KiB idle but {peak} KiB at most");
}

#[tokio::test]
async fn a_process_whose_reader_does_not_read_waits_and_one_without_a_reader_runs_on() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let flood = "head -c 50000000 /dev/zero; echo > done";
    let here = envd.home.path().to_str().expect("text").to_owned();
    let there = |request| with(request, |_, config: &mut ProcessConfig| config.cwd = Some(here.clone()));
    let mut events = start(&client, detached(there(script(flood)))).await;
    let flooder = events.pid().await;
    let done = envd.home.path().join("done");
    // It stands still: what it has written does not change while we look away.
    let written = || {
        let children = std::fs::read_to_string(format!("/proc/{flooder}/task/{flooder}/children")).unwrap_or_default();
        let head = children.split_whitespace().next()?.to_owned();
        let io = std::fs::read_to_string(format!("/proc/{head}/io")).ok()?;
        io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok()).filter(|bytes| *bytes > 0)
    };
    let mut before = None;
    eventually("it stands still", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = written();
        now.is_some() && std::mem::replace(&mut before, now) == now
    })
    .await;
    assert!(before.expect("bytes") < 20_000_000 && !done.exists(), "{before:?}");
    drop(events);
    eventually("it runs on to its end", async || done.exists()).await;
}

#[tokio::test]
async fn standard_output_and_error_keep_the_order_they_were_written_in() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, script("echo 1; read x; echo 2 >&2; read x; echo 3")).await;
    let process = events.pid().await;
    let mut said = Vec::new();
    while let Some(event) = events.next().await.expect("no error") {
        if matches!(event, Event::Stdout(_) | Event::Stderr(_)) {
            feed(&client, pid(process), "\n").await.ok();
        }
        said.push(event);
    }
    let end = End { exit_code: 0, exited: true, status: "exit status: 0".to_owned(), signal: None };
    let expected =
        [Event::Stdout(b"1\n".into()), Event::Stderr(b"2\n".into()), Event::Stdout(b"3\n".into()), Event::End(end)];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn who_connects_gets_the_recent_past_then_the_present_without_a_gap() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let request = detached(tagged("counter", script("seq 1 100000; read x; seq 100001 200000; read x; echo over")));
    let mut first = start(&client, request).await;
    first.pid().await;
    first.until("\n100000\n").await;
    let mut late = connect(&client, tag("counter")).await.expect("connects");
    assert_eq!(late.pid().await, list(&client).await[0].pid);
    drop(first);
    // Another one while it prints.
    feed(&client, tag("counter"), "\n").await.expect("fed");
    let mut later = connect(&client, tag("counter")).await.expect("connects");
    later.pid().await;
    let (one, two) = tokio::join!(late.until("\n200000\n"), later.until("\n200000\n"));
    for seen in [one, two] {
        // The first line may be a part of one.
        let numbers: Vec<u32> = seen.lines().skip(1).map(|line| line.parse().expect("a number")).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a gap or a double");
        assert!(numbers.len() > 30_000 && numbers.last() == Some(&200_000), "{} numbers", numbers.len());
    }
    feed(&client, tag("counter"), "\n").await.expect("fed");
    for mut events in [late, later] {
        assert_eq!(events.rest().await.text(), "over\n");
    }
}

#[tokio::test]
async fn who_comes_after_the_end_still_gets_what_was_said_and_how_it_ended() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, detached(tagged("short", script("echo said; exit 5")))).await;
    let process = events.pid().await;
    drop(events);
    nothing_runs(&envd).await;
    for selector in [pid(process), tag("short")] {
        let mut late = connect(&client, selector).await.expect("connects");
        assert_eq!(late.pid().await, process);
        let said = late.rest().await;
        assert_eq!((said.text().as_str(), said.code()), ("said\n", 5));
    }
    // But it is no running process any more.
    assert_eq!(code(feed(&client, pid(process), "x").await), Some(ErrorCode::NotFound));
    assert_eq!(code(signal(&client, tag("short"), Signal::SIGNAL_SIGKILL).await), Some(ErrorCode::NotFound));
}

#[tokio::test]
async fn a_program_left_behind_delays_the_end_but_little_and_may_print_on() {
    let envd = Envd::start().await;
    let (go, alive) = (envd.home.path().join("go"), envd.home.path().join("alive"));
    let text = format!(
        "mkfifo {go}; (read x < {go}; echo late; echo yes > {alive}) & echo done",
        go = go.display(),
        alive = alive.display()
    );
    let began = Instant::now();
    let said = run(&envd, script(&text)).await;
    assert_eq!((said.text().as_str(), said.code()), ("done\n", 0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Nobody reads its output any more; printing must not end it.
    tokio::task::spawn_blocking(move || std::fs::write(go, "x\n")).await.expect("joined").expect("read by it");
    eventually("it goes on after printing", async || alive.exists()).await;
}

#[tokio::test]
async fn a_program_left_behind_that_never_stops_printing_does_not_hold_the_end_up() {
    let envd = Envd::start().await;
    let said = run(&envd, script("yes & exit 6")).await;
    assert_eq!(said.code(), 6);
    let Some(cgroup) = &envd.cgroup else { return };
    std::fs::write(cgroup.join("wrenn/user/cgroup.kill"), "1").expect("killed");
}

#[tokio::test]
async fn silence_is_broken_by_signs_of_life() {
    let envd = Envd::start().await;
    let client = envd.processes_with(&[("keepalive-ping-interval", "1")]);
    let mut events = start(&client, script("read x; echo $x")).await;
    let process = events.pid().await;
    for _ in 0..2 {
        assert_eq!(events.next().await.expect("no error"), Some(Event::KeepAlive));
    }
    feed(&client, pid(process), "woken\n").await.expect("fed");
    assert_eq!(events.rest().await.text(), "woken\n");
}

#[tokio::test]
async fn single_lines_come_at_once() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, program("cat", &["-"])).await;
    let cat = events.pid().await;
    let mut times = Vec::new();
    for turn in 0..100 {
        let line = format!("{turn}\n");
        let began = Instant::now();
        feed(&client, pid(cat), line.as_str()).await.expect("fed");
        events.until(&line).await;
        times.push(began.elapsed());
    }
    times.sort();
    eprintln!("a line there and back: median {:?}, slowest {:?}", times[50], times[99]);
    assert!(times[50] < Duration::from_millis(40), "{:?}", times[50]);
}
