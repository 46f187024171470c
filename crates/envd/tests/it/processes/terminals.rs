//! Terminals.

use super::*;

#[tokio::test]
async fn a_terminal_has_the_size_asked_for_and_belongs_to_its_user() {
    let envd = Envd::start().await;
    let said = run(&envd, on_terminal(123, 45, script("stty size; tty; : > /dev/tty && echo mine; echo $TERM"))).await;
    let text = String::from_utf8(said.pty).expect("text");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].starts_with("/dev/pts/"), "{text}");
    assert_eq!((lines[0], lines[2], lines[3]), ("45 123", "mine", "xterm-256color"), "{text}");
    assert_eq!((said.stdout, said.stderr), (Vec::new(), Vec::new()), "a terminal is one stream");
    let said = run(&envd, as_user("nobody", on_terminal(0, 7, script("stat -c %U $(tty); stty size")))).await;
    assert_eq!(String::from_utf8_lossy(&said.pty), "nobody\r\n24 80\r\n");
}

#[tokio::test]
async fn what_is_typed_is_echoed_and_interrupts_work() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(
        &client,
        on_terminal(80, 24, script("trap 'echo caught' INT; read x; echo got:$x; until read y; do :; done; echo :$y")),
    )
    .await;
    let process = events.pid().await;
    type_in(&client, pid(process), "words\n").await.expect("typed");
    let seen = events.until("got:words\r\n").await;
    assert!(seen.starts_with("words\r\n"), "echoed: {seen:?}");
    type_in(&client, pid(process), [3]).await.expect("typed");
    events.until("caught\r\n").await;
    type_in(&client, pid(process), "end\n").await.expect("typed");
    let said = events.rest().await;
    assert_eq!(said.code(), 0, "{said:?}");
}

#[tokio::test]
async fn an_interrupt_ends_what_runs_in_front() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, on_terminal(80, 24, script("echo ready; exec sleep 1000"))).await;
    let process = events.pid().await;
    events.until("ready").await;
    type_in(&client, pid(process), [3]).await.expect("typed");
    assert_eq!(events.rest().await.end.expect("an end").status, "signal: 2 (SIGINT)");
}

#[tokio::test]
async fn a_resize_reaches_the_program_and_a_size_of_zero_changes_nothing() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let text = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done";
    let mut events = start(&client, on_terminal(80, 24, script(text))).await;
    let process = events.pid().await;
    events.until("ready\r\n").await;
    resize(&client, pid(process), 0, 50).await.expect("ignored");
    resize(&client, pid(process), 50, 0).await.expect("ignored");
    resize(&client, pid(process), 132, 43).await.expect("resized");
    assert_eq!(events.until("\r\n").await, "43 132\r\n");
    resize(&client, pid(process), 4_000_000_000, 43).await.expect("resized");
    assert_eq!(events.until("\r\n").await, "43 65535\r\n");
    let mut pipes = start(&client, script("sleep 1000")).await;
    let pipes = (pipes.pid().await, pipes);
    assert_eq!(code(resize(&client, pid(pipes.0), 80, 24).await), Some(ErrorCode::FailedPrecondition));
}

#[tokio::test]
async fn a_large_paste_passes_through_cat_byte_for_byte() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, on_terminal(80, 24, script("stty -echo -onlcr; echo ready; exec cat"))).await;
    let process = events.pid().await;
    events.until("ready").await;
    let line = |number: u32| format!("{number:06} {}\n", "paste ".repeat(20));
    let paste: String = (0..8000).map(line).collect();
    assert!(paste.len() > 1_000_000);
    let typed = async {
        for part in paste.as_bytes().chunks(300_000) {
            type_in(&client, pid(process), part).await.expect("typed");
        }
        // At the start of a line this is the end of file.
        type_in(&client, pid(process), [4]).await.expect("typed");
    };
    let ((), said) = tokio::join!(typed, events.rest());
    // The newline of "ready" may still be under way.
    let seen = String::from_utf8(said.pty).expect("text");
    let seen = seen.trim_start_matches(['\r', '\n']);
    assert!(seen == paste, "{} of {} bytes", seen.len(), paste.len());
    assert_eq!(said.end.expect("an end").exit_code, 0);
}

#[tokio::test]
async fn a_terminals_input_cannot_be_closed_and_takes_no_stdin() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, on_terminal(80, 24, script("exec cat"))).await;
    let process = events.pid().await;
    assert_eq!(code(close(&client, pid(process)).await), Some(ErrorCode::FailedPrecondition));
    assert_eq!(code(feed(&client, pid(process), "x").await), Some(ErrorCode::FailedPrecondition));
    type_in(&client, pid(process), [4]).await.expect("typed");
    assert_eq!(events.rest().await.code(), 0);
}

#[tokio::test]
async fn a_terminal_without_a_command_is_a_login_shell() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, on_terminal(80, 24, program("", &[]))).await;
    let process = events.pid().await;
    type_in(&client, pid(process), "echo \"[$0]\"; exit 4\n").await.expect("typed");
    let said = events.rest().await;
    let text = String::from_utf8_lossy(&said.pty).into_owned();
    assert!(text.contains("[-"), "{text:?}");
    assert_eq!(said.code(), 4);
}

#[tokio::test]
async fn who_hangs_up_on_a_terminal_ends_what_runs_in_it() {
    let envd = Envd::start().await;
    let mut events =
        start(&envd.processes(), on_terminal(80, 24, script("trap '' HUP; echo ready; while :; do sleep 1; done")))
            .await;
    let process = events.pid().await;
    events.until("ready").await;
    drop(events);
    eventually("it has ended", async || !lives(process)).await;
    nothing_runs(&envd).await;
}

#[tokio::test]
async fn a_session_that_reads_nothing_can_be_killed_while_it_is_typed_to() {
    let envd = Envd::start().await;
    let client = envd.processes();
    for _ in 0..10 {
        let mut events =
            start(&client, on_terminal(80, 24, script("stty raw -echo; echo ready; exec sleep 1000"))).await;
        let process = events.pid().await;
        events.until("ready").await;
        // More than a terminal takes.
        let typing = type_in(&client, pid(process), vec![b'x'; 300_000]);
        let killing = async {
            signal(&client, pid(process), Signal::SIGNAL_SIGKILL).await.expect("signalled");
            events.rest().await
        };
        let (typed, said) = tokio::join!(typing, killing);
        assert_eq!(said.end.expect("an end").signal, Some(9));
        assert!(typed.is_err(), "nobody read it");
    }
}
