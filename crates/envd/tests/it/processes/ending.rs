//! Ends: wished for, by time-out, by a caller who hung up; and what is left afterwards.

use std::time::Duration;

use buffa::EnumValue;
use wrenn_domain::limits::GUEST_PROCESSES_MAX;

use super::*;
use crate::envd::Wish;

/// A family: a child in the group, one in a session of its own that ignores hang-ups, and the parent.
const FAMILY: &str = "sleep 1000 & echo $!; setsid nohup sleep 1000 >/dev/null 2>&1 & echo $!; echo ready; wait";

async fn family(events: &mut Events) -> [u32; 3] {
    let parent = events.pid().await;
    let seen = events.until("ready\n").await;
    let mut numbers = seen.lines().map_while(|line| line.parse().ok());
    [parent, numbers.next().expect("a pid"), numbers.next().expect("a pid")]
}

async fn gone(pids: &[u32]) {
    eventually("all have ended", async || !pids.iter().any(|pid| lives(*pid))).await;
}

#[tokio::test]
async fn who_hangs_up_ends_the_process_and_all_it_started() {
    let envd = Envd::start().await;
    let mut events = start(&envd.processes(), script(FAMILY)).await;
    let pids = family(&mut events).await;
    drop(events);
    gone(&pids[..2]).await;
    nothing_runs(&envd).await;
    match envd.cgroup {
        Some(_) => gone(&pids).await,
        None => {
            eprintln!("SKIPPED: without a cgroup, what left its group cannot be found");
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pids[2].cast_signed()), nix::sys::signal::SIGKILL).ok();
        }
    }
}

#[tokio::test]
async fn without_cgroups_everything_works_and_the_process_group_is_ended() {
    let envd = Envd::start_with(Wish { without_cgroup: true, ..Wish::default() }).await;
    assert_eq!(run(&envd, script("echo fine")).await.text(), "fine\n");
    assert!(!envd.home.path().join("wrenn").exists(), "no directory where there are no cgroups");
    let client = envd.processes();
    let mut events = start(&client, script("sleep 1000 & echo $!; echo ready; wait")).await;
    let parent = events.pid().await;
    let child = events.until("ready\n").await.lines().next().expect("a pid").parse().expect("a pid");
    drop(events);
    gone(&[parent, child]).await;
    nothing_runs(&envd).await;
}

#[tokio::test]
async fn the_reader_of_a_running_process_may_leave() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, script("read x; echo $x")).await;
    let process = events.pid().await;
    let mut other = connect(&client, pid(process)).await.expect("connects");
    other.pid().await;
    drop(other);
    feed(&client, pid(process), "still here\n").await.expect("fed");
    assert_eq!(events.rest().await.text(), "still here\n");
}

#[tokio::test]
async fn a_detached_process_outlives_its_caller_and_the_callers_deadline() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let request = detached(tagged("survivor", script("read x; echo $x")));
    let mut events = Events::Started(client.start_with_options(request, within(200)).await.expect("starts"));
    let process = events.pid().await;
    let error = events.next().await.expect_err("the deadline");
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);
    drop(events);
    assert_eq!(list(&client).await.len(), 1);
    let mut again = connect(&client, tag("survivor")).await.expect("connects");
    assert_eq!(again.pid().await, process);
    feed(&client, tag("survivor"), "alive\n").await.expect("fed");
    assert_eq!(again.rest().await.text(), "alive\n");
}

#[tokio::test]
async fn the_deadline_of_the_call_ends_the_process_and_all_it_started() {
    let envd = Envd::start().await;
    // As a header, so that it is envd who keeps it and not this client.
    let client = envd.processes_with(&[("connect-timeout-ms", "1500")]);
    let mut events = start(&client, script(FAMILY)).await;
    let pids = family(&mut events).await;
    let error = events.next().await.expect_err("the deadline");
    assert_eq!(error.code, ErrorCode::DeadlineExceeded, "{error}");
    gone(&pids[..if envd.cgroup.is_some() { 3 } else { 2 }]).await;
    nothing_runs(&envd).await;
}

#[tokio::test]
async fn the_deadline_holds_even_when_nobody_reads() {
    let envd = Envd::start().await;
    let client = envd.processes_with(&[("connect-timeout-ms", "500")]);
    let mut flood = start(&client, script("yes")).await;
    let process = flood.pid().await;
    eventually("it is ended", async || !lives(process)).await;
    nothing_runs(&envd).await;
    drop(flood);
}

#[tokio::test]
async fn signals_reach_the_whole_group_and_can_be_caught() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events =
        start(&client, script("trap 'echo caught; exit 3' TERM; sleep 1000 & echo $!; echo ready; wait")).await;
    let process = events.pid().await;
    let child = events.until("ready\n").await.lines().next().expect("a pid").parse().expect("a pid");
    // Until then it is a copy of the shell, which catches the signal.
    let name = format!("/proc/{child}/comm");
    eventually("the child is a sleep", async || std::fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"))
        .await;
    signal(&client, pid(process), Signal::SIGNAL_SIGTERM).await.expect("signalled");
    let said = events.rest().await;
    assert_eq!((said.text().as_str(), said.code()), ("caught\n", 3));
    gone(&[child]).await;
}

#[tokio::test]
async fn a_kill_reaches_what_left_the_group() {
    let envd = Envd::start().await;
    if envd.cgroup.is_none() {
        return eprintln!("SKIPPED: this machine lets us make no cgroup");
    }
    let client = envd.processes();
    let mut events = start(&client, detached(script(FAMILY))).await;
    let pids = family(&mut events).await;
    signal(&client, pid(pids[0]), Signal::SIGNAL_SIGKILL).await.expect("signalled");
    assert_eq!(events.rest().await.end.expect("an end").status, "signal: 9 (SIGKILL)");
    gone(&pids).await;
}

#[tokio::test]
async fn other_signals_are_sent_by_number_and_nonsense_is_refused() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events =
        start(&client, script("trap 'echo two; exit 0' INT; echo ready; while :; do sleep 0.01; done")).await;
    let process = events.pid().await;
    events.until("ready\n").await;
    let request = |number| SendSignalRequest {
        process: pid(process).into(),
        signal: EnumValue::Unknown(number),
        ..Default::default()
    };
    for number in [0, 99, -1] {
        let error = client.send_signal(request(number)).await.expect_err("no signal");
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{number}");
    }
    client.send_signal(request(2)).await.expect("signalled");
    assert_eq!(events.rest().await.text(), "two\n");
}

#[tokio::test]
async fn nothing_is_left_of_ended_processes() {
    let envd = Envd::start().await;
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", envd.pid())).expect("envd runs").count();
    let client = envd.processes();
    run(&envd, script("true")).await;
    let before = descriptors();
    for turn in 0..50 {
        let mut events = match turn % 3 {
            0 => start(&client, script("exit 1")).await,
            1 => start(&client, on_terminal(80, 24, script("exit 1"))).await,
            _ => start(&client, program("cat", &["-"])).await,
        };
        let process = events.pid().await;
        if turn % 3 == 2 {
            drop(events);
            gone(&[process]).await;
        } else {
            assert_eq!(events.rest().await.code(), 1);
        }
        refused(&client, program("/no/such/program", &["x"])).await;
    }
    nothing_runs(&envd).await;
    let children = || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", envd.pid())).expect("envd runs").flatten();
        threads
            .map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default())
            .collect::<String>()
    };
    eventually("no children, not even ended ones", async || children().trim().is_empty()).await;
    // The connections of this test come and go; its pools hold a few.
    eventually("no descriptors", async || descriptors() <= before + 8).await;
}

#[tokio::test]
async fn processes_are_bounded_and_each_costs_little() {
    let envd = Envd::start().await;
    let client = envd.processes();
    run(&envd, script("true")).await;
    let before = envd.status_number("VmRSS");
    for started in 0..GUEST_PROCESSES_MAX {
        let mut events = start(&client, detached(program("sleep", &["1000"]))).await;
        assert!(events.pid().await > 0, "{started}");
    }
    let each = (envd.status_number("VmRSS") - before) * 1024 / GUEST_PROCESSES_MAX as u64;
    eprintln!("{each} bytes of envd for each process; {} threads", envd.status_number("Threads"));
    assert!(each < 24 * 1024, "{each} bytes each");
    assert!(envd.status_number("Threads") < 24, "a thread is no way to follow a process");
    let error = refused(&client, program("true", &["x"])).await;
    assert_eq!(error.code, ErrorCode::ResourceExhausted, "{error}");
    let listed = list(&client).await;
    assert_eq!(listed.len(), GUEST_PROCESSES_MAX);
    for process in &listed {
        signal(&client, pid(process.pid), Signal::SIGNAL_SIGKILL).await.expect("signalled");
    }
    nothing_runs(&envd).await;
    assert_eq!(run(&envd, script("echo again")).await.text(), "again\n");
}

#[tokio::test]
async fn a_bomb_of_forks_ends_with_the_one_who_lit_it() {
    let envd = Envd::start().await;
    if envd.cgroup.is_none() {
        return eprintln!("SKIPPED: without a cgroup a bomb that changes sessions cannot be ended");
    }
    // Each generation starts the next in a session of its own and ends: no parent and no group to hold on to.
    let bomb = r#"n() { setsid sh -c "$1" x "$1" & }; f='sleep 0.01; setsid sh -c "$1" x "$1" &'; n "$f"; echo lit; sleep 1000"#;
    let mut events = start(&envd.processes(), script(bomb)).await;
    events.pid().await;
    events.until("lit").await;
    let procs = envd.cgroup.as_ref().expect("a cgroup").join("wrenn/user/1/cgroup.procs");
    let count = || std::fs::read_to_string(&procs).map(|text| text.lines().count()).unwrap_or(0);
    eventually("it burns", async || count() > 1).await;
    drop(events);
    eventually("it is out", async || count() == 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(count(), 0, "and stays out");
}
