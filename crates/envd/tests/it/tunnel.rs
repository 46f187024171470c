//! Tunnels to the loopback.

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wrenn_contract::guest::{INIT, Init, TOKEN_HEADER};

use crate::envd::{Envd, SOON, TOKEN};

/// Asks for a tunnel; the answer's first line, and the connection after its head.
async fn open(envd: &Envd, port: u16, token: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(envd.addr).await.expect("connects");
    let ask = format!(
        "GET /tunnel?port={port} HTTP/1.1\r\nHost: x\r\n{TOKEN_HEADER}: {token}\r\nConnection: Upgrade\r\nUpgrade: wrenn-tcp\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.expect("asks");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(SOON, stream.read_u8()).await.expect("in time").expect("an answer"));
    }
    let head = String::from_utf8(head).expect("text");
    (head.lines().next().unwrap_or_default().to_owned(), stream)
}

#[tokio::test]
async fn a_tunnel_needs_the_token_and_a_listener_and_never_leads_to_envd() {
    let envd = Envd::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    for (port, token, expected) in
        [(port, "wrong", "401"), (49983, TOKEN, "400"), (0, TOKEN, "400"), (port, TOKEN, "101")]
    {
        let (line, _stream) = open(&envd, port, token).await;
        assert!(line.starts_with(&format!("HTTP/1.1 {expected} ")), "{port} {token}: {line}");
    }
    drop(listener);
    let (line, _stream) = open(&envd, port, TOKEN).await;
    assert!(line.starts_with("HTTP/1.1 502 "), "{line}");
}

#[tokio::test]
async fn tunnels_of_an_earlier_life_are_cut_and_those_of_this_one_go_on() {
    let envd = Envd::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let live = async |life: &str| {
        let init = Init { lifecycle_id: Some(life.to_owned()), ..Init::default() };
        let body = serde_json::to_vec(&init).expect("JSON");
        assert_eq!(envd.call(Method::POST, INIT, &[], body).await.status, 200);
    };
    live("one").await;
    let (_, mut outside) = open(&envd, port, TOKEN).await;
    let (mut inside, _) = listener.accept().await.expect("dialled");
    // The same life again, as after a snapshot: nobody notices.
    live("one").await;
    inside.write_all(b"on").await.expect("writes");
    let mut got = [0; 2];
    tokio::time::timeout(SOON, outside.read_exact(&mut got)).await.expect("in time").expect("reads");
    live("two").await;
    let ended = tokio::time::timeout(SOON, inside.read_u8()).await.expect("in time");
    assert!(ended.is_err(), "its server hears that nobody is there any more");
}
