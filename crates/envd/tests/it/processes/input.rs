//! Input: in order, with patience, and with clear answers when it cannot be.

use std::sync::Arc;

use futures::future::join_all;
use wrenn_contract::proto::process::__buffa::oneof::stream_input_request::Event as Part;
use wrenn_contract::proto::process::StreamInputRequest;
use wrenn_contract::proto::process::stream_input_request::{DataEvent, KeepAlive, StartEvent};
use wrenn_domain::limits::{GUEST_MESSAGE_BYTES_MAX, PROCESS_INPUT_CALLS_MAX};

use super::*;

fn bytes(count: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(count).collect()
}

#[tokio::test]
async fn megabytes_pass_through_cat_byte_for_byte() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, program("cat", &["-"])).await;
    let cat = events.pid().await;
    let (sent, second) = (bytes(4 * 1024 * 1024), bytes(1_000_003));
    let fed = async {
        let (one, two) = tokio::join!(feed(&client, pid(cat), sent.clone()), feed(&client, pid(cat), second.clone()));
        one.and(two).expect("fed");
        close(&client, pid(cat)).await.expect("closed");
    };
    let ((), said) = tokio::join!(fed, events.rest());
    assert_eq!(said.stdout.len(), sent.len() + second.len());
    // Calls never mix, whichever came first.
    assert!(said.stdout == [sent.clone(), second.clone()].concat() || said.stdout == [second, sent].concat());
}

#[tokio::test]
async fn calls_at_the_same_time_never_mix_their_bytes() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, program("cat", &["-"])).await;
    let cat = events.pid().await;
    let calls = (0..8u8).map(|number| feed(&client, pid(cat), vec![b'a' + number; 300_000]));
    let fed = async {
        for result in join_all(calls).await {
            result.expect("fed");
        }
        close(&client, pid(cat)).await.expect("closed");
    };
    let ((), said) = tokio::join!(fed, events.rest());
    let mut seen: Vec<u8> = said.stdout.chunks(300_000).map(|chunk| chunk[0]).collect();
    assert!(said.stdout.chunks(300_000).all(|chunk| chunk.iter().all(|byte| *byte == chunk[0])));
    seen.sort_unstable();
    assert_eq!(seen, b"abcdefgh");
}

#[tokio::test]
async fn closing_waits_for_input_that_is_still_being_written() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let go = envd.home.path().join("go");
    let text = format!("while [ ! -e {} ]; do sleep 0.01; done; wc -c", go.display());
    let mut events = start(&client, script(&text)).await;
    let process = events.pid().await;
    let (sender, closer) = (client.clone(), client.clone());
    let sent = tokio::spawn(async move { feed(&sender, pid(process), bytes(1_000_000)).await });
    // Nobody reads yet: the call waits in the middle, and even a call without a byte waits behind it.
    eventually("the call waits", async || {
        let result = client.send_input_with_options(request(process, Vec::new()), within(100)).await;
        result.is_err_and(|error| error.code == ErrorCode::DeadlineExceeded)
    })
    .await;
    let closed = tokio::spawn(async move { close(&closer, pid(process)).await });
    std::fs::write(go, "").expect("written");
    assert_eq!(events.rest().await.text().trim(), "1000000");
    sent.await.expect("joined").expect("fed");
    closed.await.expect("joined").expect("closed");
}

fn request(process: u32, bytes: Vec<u8>) -> SendInputRequest {
    let input = ProcessInput { input: Some(Input::Stdin(bytes)), ..Default::default() };
    SendInputRequest { process: pid(process).into(), input: input.into(), ..Default::default() }
}

#[tokio::test]
async fn a_call_waits_for_the_process_and_ends_with_it() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, program("sleep", &["1000"])).await;
    let process = events.pid().await;
    // Its own deadline ends the waiting.
    let error = client
        .send_input_with_options(request(process, bytes(1_000_000)), within(300))
        .await
        .expect_err("nobody reads");
    assert_eq!(error.code, ErrorCode::DeadlineExceeded, "{error}");
    let sender = client.clone();
    let waiting = tokio::spawn(async move { feed(&sender, pid(process), bytes(1_000_000)).await });
    signal(&client, pid(process), Signal::SIGNAL_SIGKILL).await.expect("signalled");
    assert_eq!(events.rest().await.end.expect("an end").signal, Some(9));
    assert_over(waiting.await.expect("joined"));
}

#[tokio::test]
async fn only_so_many_calls_wait_for_one_process() {
    let envd = Envd::start().await;
    let client = Arc::new(envd.processes());
    let mut events = start(&client, program("sleep", &["1000"])).await;
    let process = events.pid().await;
    let mut calls: Vec<_> = (0..PROCESS_INPUT_CALLS_MAX + 1)
        .map(|_| {
            let client = client.clone();
            Box::pin(async move { feed(&client, pid(process), bytes(200_000)).await })
        })
        .collect();
    // Exactly one is sent away; all others wait.
    let (first, _, rest) = futures::future::select_all(calls.drain(..)).await;
    assert_eq!(code(first), Some(ErrorCode::ResourceExhausted));
    signal(&client, pid(process), Signal::SIGNAL_SIGKILL).await.expect("signalled");
    for result in join_all(rest).await {
        assert_over(result);
    }
}

/// Its pipe broke, or its end was told: whichever came first.
fn assert_over(result: Result<(), ConnectError>) {
    let code = code(result);
    assert!(matches!(code, Some(ErrorCode::NotFound | ErrorCode::FailedPrecondition)), "{code:?}");
}

#[tokio::test]
async fn input_that_cannot_be_taken_says_why() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut without = start(&client, with(script("cat; sleep 1000"), |request, _| request.stdin = Some(false))).await;
    let without = (without.pid().await, without);
    let mut closed = start(&client, script("sleep 1000")).await;
    let closed = (closed.pid().await, closed);
    let mut deaf = start(&client, script("exec <&-; echo deaf; sleep 1000")).await;
    let deaf_pid = deaf.pid().await;
    deaf.until("deaf").await;
    close(&client, pid(without.0)).await.expect("nothing to close is closed");
    close(&client, pid(closed.0)).await.expect("closed");
    close(&client, pid(closed.0)).await.expect("closed again");
    for (process, says) in [
        (without.0, "without standard input"),
        (closed.0, "standard input is closed"),
        (deaf_pid, "has closed its standard input"),
    ] {
        let error = feed(&client, pid(process), "x").await.expect_err("not taken");
        assert_eq!(error.code, ErrorCode::FailedPrecondition, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let error = type_in(&client, pid(deaf_pid), "x").await.expect_err("no terminal");
    assert_eq!(error.code, ErrorCode::FailedPrecondition);
    let nothing = SendInputRequest { process: pid(deaf_pid).into(), ..Default::default() };
    let error = client.send_input(nothing).await.expect_err("no input");
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    drop((without, closed));
}

#[tokio::test]
async fn a_message_past_the_bound_is_refused() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, program("cat", &["-"])).await;
    let cat = events.pid().await;
    let error = feed(&client, pid(cat), bytes(GUEST_MESSAGE_BYTES_MAX + 1)).await.expect_err("too large");
    assert_eq!(error.code, ErrorCode::ResourceExhausted, "{error}");
    close(&client, pid(cat)).await.expect("closed");
    assert_eq!(events.rest().await.stdout, b"");
}

fn part(event: impl Into<Option<Part>>) -> StreamInputRequest {
    StreamInputRequest { event: event.into(), ..Default::default() }
}

fn begin(selector: ProcessSelector) -> StreamInputRequest {
    part(StartEvent { process: selector.into(), ..Default::default() })
}

fn data(input: Input) -> StreamInputRequest {
    let input = ProcessInput { input: Some(input), ..Default::default() };
    part(DataEvent { input: input.into(), ..Default::default() })
}

#[tokio::test]
async fn a_stream_of_input_arrives_in_order() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, tagged("cat", program("cat", &["-"]))).await;
    events.pid().await;
    let mut parts = vec![begin(tag("cat"))];
    let mut expected = Vec::new();
    for number in 0..2000u32 {
        let line = format!("{number}\n");
        expected.extend(line.bytes());
        parts.push(data(Input::Stdin(line.into_bytes())));
        if number % 500 == 0 {
            parts.push(part(KeepAlive::default()));
        }
    }
    let fed = async {
        client.stream_input(futures::stream::iter(parts)).await.expect("fed");
        close(&client, tag("cat")).await.expect("closed");
    };
    let ((), said) = tokio::join!(fed, events.rest());
    assert!(said.stdout == expected, "{} of {} bytes", said.stdout.len(), expected.len());
}

#[tokio::test]
async fn a_stream_of_input_without_a_process_is_refused() {
    let envd = Envd::start().await;
    let client = envd.processes();
    for (parts, expected) in [
        (vec![data(Input::Stdin(b"x".to_vec()))], ErrorCode::InvalidArgument),
        (vec![], ErrorCode::InvalidArgument),
        (vec![part(None)], ErrorCode::InvalidArgument),
        (vec![begin(tag("nobody"))], ErrorCode::NotFound),
        (vec![begin(ProcessSelector::default())], ErrorCode::InvalidArgument),
    ] {
        let error = client.stream_input(futures::stream::iter(parts)).await.expect_err("refused");
        assert_eq!(error.code, expected, "{error}");
    }
}
