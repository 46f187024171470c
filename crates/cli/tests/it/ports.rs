//! `wrenn port-forward` and `wrenn url`.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{RUN_MAX, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_port_carries_many_connections_and_each_end_for_itself() {
    let world = World::start().await;
    let id = world.done(&["capsule", "create", "--auto-resume"]).await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let remote = server.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.write_all(b"bye").await;
            });
        }
    });
    let unused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").port()
    };
    let (one, two) = (format!("0:{remote}"), format!("0:{unused}"));
    let mut forward =
        world.program(&["--json", "port-forward", &id, &one, &two]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(forward.stdout.take().expect("piped")).lines();
    let mut said = String::new();
    while !said.ends_with("\n]") {
        let line = tokio::time::timeout(RUN_MAX, lines.next_line()).await.expect("in time").expect("text");
        said = format!("{said}\n{}", line.expect("it goes on"));
    }
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said[0]["remote"], json!(remote));
    let at = |n: usize| said[n]["listen"].as_str().expect("an address").to_owned();

    let talk = |n: u8| {
        let at = at(0);
        async move {
            let stream = TcpStream::connect(at).await.expect("connects");
            let (mut from, mut to) = stream.into_split();
            let feeding = tokio::spawn(async move {
                to.write_all(&vec![n; 500_000]).await.expect("sends");
                to.shutdown().await.expect("ends");
                to
            });
            let mut got = Vec::new();
            tokio::time::timeout(RUN_MAX, from.read_to_end(&mut got)).await.expect("in time").expect("reads");
            drop(feeding.await.expect("fed"));
            let last = got.split_off(got.len().saturating_sub(3));
            assert!(got.len() == 500_000 && got.iter().all(|byte| *byte == n) && last == b"bye", "{}", got.len());
        }
    };
    futures::future::join_all((0..20).map(talk)).await;

    // The reset may be there before the connect has looked at what became of it.
    let refused = async { TcpStream::connect(at(1)).await?.read_u8().await };
    let ended = tokio::time::timeout(RUN_MAX, refused).await.expect("in time");
    assert_eq!(ended.expect_err("nothing there").kind(), std::io::ErrorKind::ConnectionReset);

    let pid = nix::unistd::Pid::from_raw(forward.id().expect("runs").try_into().expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");
    let status = tokio::time::timeout(RUN_MAX, forward.wait()).await.expect("in time").expect("ends");
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn addresses_are_printed_and_what_is_not_there_is_said_at_once() {
    let world = World::start().await;
    let id = "cl-0000000000000000000000000";
    let port = world.base_url.rsplit(':').next().expect("a port");
    let printed = async |args: &[&str]| {
        let out = world.program(args).output().await.expect("starts");
        assert!(out.status.success(), "{args:?}");
        String::from_utf8(out.stdout).expect("text")
    };
    assert_eq!(printed(&["url", id, "80"]).await, format!("http://80-{id}.localhost:{port}\n"));
    assert_eq!(printed(&["url", id, "80", "--proxy-domain", "x.test"]).await, format!("http://80-{id}.x.test\n"));
    let why = world.refused(&["port-forward", id, "0:80"]).await;
    assert!(why.contains("no capsule"), "{why}");
}
