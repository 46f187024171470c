//! Large files, in bounded memory.

use std::convert::Infallible;

use bytes::Bytes;
use futures::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::time::Instant;

use super::*;

const CHUNK: usize = 1024 * 1024;
const CHUNKS: usize = 300;

/// Chunk `n`, different from all others.
fn chunk(n: usize, pattern: &[u8]) -> Vec<u8> {
    let mut chunk = pattern.to_vec();
    chunk[..8].copy_from_slice(&(n as u64).to_le_bytes());
    chunk
}

pub async fn upload(envd: &Envd, path: &Path, chunks: usize, pattern: &[u8]) -> (u16, Bytes) {
    let pattern = pattern.to_vec();
    let body =
        stream::iter((0..chunks).map(move |n| Ok::<_, Infallible>(Frame::data(Bytes::from(chunk(n, &pattern))))));
    let request = Request::put(format!("http://{}{}", envd.addr, uri(path)))
        .header(TOKEN_HEADER, TOKEN)
        .body(StreamBody::new(body))
        .expect("a request");
    let response = Client::builder(TokioExecutor::new()).build_http().request(request).await.expect("an answer");
    (response.status().as_u16(), response.into_body().collect().await.expect("a body").to_bytes())
}

#[tokio::test]
async fn three_hundred_megabytes_pass_both_ways_in_forty() {
    let envd = Envd::start().await;
    let (path, pattern) = (envd.home.path().join("large"), noise(CHUNK));
    let began = Instant::now();
    let (status, body) = upload(&envd, &path, CHUNKS, &pattern).await;
    let up = began.elapsed();
    assert_eq!(status, 200, "{body:?}");
    assert_eq!(fs::metadata(&path).unwrap().len(), (CHUNKS * CHUNK) as u64);

    let began = Instant::now();
    let request = Request::get(format!("http://{}{}", envd.addr, uri(&path)))
        .header(TOKEN_HEADER, TOKEN)
        .body(http_body_util::Empty::<Bytes>::new())
        .expect("a request");
    let response = Client::builder(TokioExecutor::new()).build_http().request(request).await.expect("an answer");
    let (mut body, mut held, mut seen) = (response.into_body(), Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        held.extend_from_slice(&frame.expect("no break").into_data().expect("data"));
        while held.len() >= CHUNK {
            assert!(held[..CHUNK] == chunk(seen, &pattern), "chunk {seen}");
            held.drain(..CHUNK);
            seen += 1;
        }
    }
    assert_eq!((seen, held.len()), (CHUNKS, 0));
    let peak = envd.status_number("VmHWM");
    eprintln!("300 MiB up in {up:?}, down (and compared) in {:?}, peak {peak} KiB", began.elapsed());
    assert!(peak < 40 * 1024, "{peak} KiB");
}

#[tokio::test]
async fn eight_at_once_stay_bounded_too() {
    let envd = Envd::start().await;
    let pattern = noise(CHUNK);
    let uploads = (0..8).map(|n| {
        let path = envd.home.path().join(format!("{n}"));
        let (envd, pattern) = (&envd, &pattern);
        async move { upload(envd, &path, 30, pattern).await.0 }
    });
    assert_eq!(futures::future::join_all(uploads).await, [200; 8]);
    let downloads = (0..8).map(|n| {
        let envd = &envd;
        async move { get(envd, envd.home.path().join(format!("{n}")), &[]).await.body.len() }
    });
    assert_eq!(futures::future::join_all(downloads).await, [30 * CHUNK; 8]);
    let peak = envd.status_number("VmHWM");
    assert!(peak < 40 * 1024, "{peak} KiB");
}

#[tokio::test]
async fn an_idle_envd_is_small() {
    let envd = Envd::start().await;
    fs::write(envd.home.path().join("file"), "x").unwrap();
    assert_eq!(get(&envd, envd.home.path().join("file"), &[]).await.status, 200);
    // What it keeps for itself; the program's own pages are shared with the file, and their number is the compiler's.
    let own = envd.status_number("RssAnon");
    eprintln!("idle: {own} KiB");
    assert!(own < 4 * 1024, "{own} KiB");
}

#[tokio::test]
async fn a_packed_bomb_costs_disk_and_no_memory() {
    let envd = Envd::start().await;
    let path = envd.home.path().join("zeros");
    let packed = super::conditional::pack(&vec![0; 200_000_000]).await;
    assert!(packed.len() < 400_000);
    let answer = envd.call(http::Method::PUT, &uri(&path), &[("content-encoding", "gzip")], packed).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 200_000_000);
    let peak = envd.status_number("VmHWM");
    assert!(peak < 40 * 1024, "{peak} KiB");
}
