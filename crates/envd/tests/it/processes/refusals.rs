//! What is refused, and how clearly.

use wrenn_domain::limits::PROCESS_TAG_BYTES_MAX;

use super::*;
use crate::envd::Wish;

#[tokio::test]
async fn a_start_that_cannot_be_says_what_is_wrong_with_it() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let cwd = |dir: &str| with(script("true"), |_, config| config.cwd = Some(dir.to_owned()));
    let text = envd.home.path().join("text");
    std::fs::write(&text, "no program").expect("written");
    for (request, says) in [
        (cwd("/no/such/dir"), "\"/no/such/dir\" does not exist"),
        (cwd("/etc/passwd"), "\"/etc/passwd\" is not a directory"),
        (cwd("~you"), "~you"),
        (as_user("nobody-at-all", script("true")), "there is no user \"nobody-at-all\""),
        (as_user("../../etc", script("true")), "../../etc"),
        (program("/no/such/program", &["x"]), "\"/no/such/program\" was not found"),
        (program("no-such-program-anywhere", &["x"]), "\"no-such-program-anywhere\" was not found"),
        (program(text.to_str().expect("text"), &["x"]), "may not execute"),
        (program("/usr", &["x"]), "may not execute"),
        (program("", &["x"]), "without a command"),
        (program("a\0b", &["x"]), "zero byte"),
        (
            with(script("true"), |_, config| {
                config.envs.insert("A=B".to_owned(), String::new());
            }),
            "A=B",
        ),
        (tagged(&"t".repeat(PROCESS_TAG_BYTES_MAX + 1), script("true")), "tag"),
        (StartRequest::default(), "no process was described"),
        (program("true", &["x".repeat(100_000).as_str(); 40]), "too long"),
    ] {
        let error = refused(&client, request).await;
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(list(&client).await.is_empty());
}

#[tokio::test]
async fn unknown_processes_are_not_found_and_no_process_is_an_invalid_request() {
    let envd = Envd::start().await;
    let client = envd.processes();
    for (selector, expected) in [
        (pid(4_000_000_000), ErrorCode::NotFound),
        // Running, but not ours.
        (pid(envd.pid()), ErrorCode::NotFound),
        (pid(1), ErrorCode::NotFound),
        (tag("nobody"), ErrorCode::NotFound),
        (pid(0), ErrorCode::InvalidArgument),
        (tag(""), ErrorCode::InvalidArgument),
        (ProcessSelector::default(), ErrorCode::InvalidArgument),
    ] {
        let say = format!("{selector:?}");
        assert_eq!(code(feed(&client, selector.clone(), "x").await), Some(expected), "{say}");
        assert_eq!(code(type_in(&client, selector.clone(), "x").await), Some(expected), "{say}");
        assert_eq!(code(close(&client, selector.clone()).await), Some(expected), "{say}");
        assert_eq!(code(resize(&client, selector.clone(), 80, 24).await), Some(expected), "{say}");
        assert_eq!(code(signal(&client, selector.clone(), Signal::SIGNAL_SIGKILL).await), Some(expected), "{say}");
        let connected = match connect(&client, selector).await {
            Ok(mut events) => events.next().await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(code(connected), Some(expected), "{say}");
    }
    assert!(lives(envd.pid()));
}

/// Every call of the service with this client: the code it was refused with.
async fn every_call(client: &Client, mark: &str) -> Vec<Option<ErrorCode>> {
    let started = match client.start(detached(script(&format!("touch {mark}")))).await {
        Ok(stream) => Events::Started(stream).next().await.map(drop),
        Err(error) => Err(error),
    };
    let connected = match connect(client, pid(1)).await {
        Ok(mut events) => events.next().await.map(drop),
        Err(error) => Err(error),
    };
    let fed = client.stream_input(futures::stream::iter(Vec::new())).await.map(drop);
    vec![
        code(client.list(ListRequest::default()).await.map(drop)),
        code(started),
        code(connected),
        code(fed),
        code(feed(client, pid(1), "x").await),
        code(close(client, pid(1)).await),
        code(resize(client, pid(1), 80, 24).await),
        code(signal(client, pid(1), Signal::SIGNAL_SIGTERM).await),
    ]
}

#[tokio::test]
async fn no_call_is_served_without_the_token() {
    let envd = Envd::start().await;
    let mark = envd.home.path().join("mark");
    for token in [None, Some(""), Some("wrong"), Some("the-token-of-this-tes"), Some("the-token-of-this-test2")] {
        let codes = every_call(&envd.processes_as(token), mark.to_str().expect("text")).await;
        assert_eq!(codes, [Some(ErrorCode::Unauthenticated); 8], "{token:?}");
    }
    // Not before there is a token either.
    let new = Envd::start_uninitialised(Wish::default());
    for token in [None, Some(""), Some("any")] {
        let codes = every_call(&new.processes_as(token), mark.to_str().expect("text")).await;
        assert_eq!(codes, [Some(ErrorCode::Unauthenticated); 8], "{token:?}");
    }
    assert!(!mark.exists());
    assert!(list(&envd.processes()).await.is_empty());
}
