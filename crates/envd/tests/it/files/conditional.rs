//! Ranges, conditions and gzip.

use std::io::{Read, Write};

use async_compression::tokio::bufread::{GzipDecoder, GzipEncoder};
use tokio::io::AsyncReadExt;

use super::*;

#[tokio::test]
async fn one_range_is_answered_exactly() {
    let envd = Envd::start().await;
    let (path, bytes) = (envd.home.path().join("file"), noise(600_000));
    fs::write(&path, &bytes).unwrap();
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=0-599999", 0..600_000),
        ("bytes=0-999999999", 0..600_000),
        ("bytes=262143-262144", 262_143..262_145),
        ("bytes=100000-", 100_000..600_000),
        ("bytes=599999-", 599_999..600_000),
        ("bytes=-1", 599_999..600_000),
        ("bytes=-700000", 0..600_000),
    ] {
        let answer = get(&envd, &path, &[("range", range)]).await;
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.headers["content-length"], part.len().to_string(), "{range}");
        let expected = format!("bytes {}-{}/600000", part.start, part.end - 1);
        assert_eq!(answer.headers["content-range"], expected.as_str());
        assert!(answer.body == bytes[part], "{range}");
    }
    for range in ["bytes=600000-", "bytes=600000-700000", "bytes=-0"] {
        let answer = get(&envd, &path, &[("range", range)]).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (416, 0), "{range}");
        assert_eq!(answer.headers["content-range"], "bytes */600000");
    }
    for range in ["bytes=0-1,5-6", "bytes=5-1", "lines=1-2", "nonsense"] {
        let answer = get(&envd, &path, &[("range", range)]).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 600_000), "{range}");
    }
    fs::write(&path, "").unwrap();
    let answer = get(&envd, &path, &[("range", "bytes=0-0")]).await;
    assert_eq!(answer.status, 416);
    assert_eq!(answer.headers["content-range"], "bytes */0");
}

#[tokio::test]
async fn a_file_the_client_has_is_not_sent_again() {
    let envd = Envd::start().await;
    let path = envd.home.path().join("file");
    fs::write(&path, "content").unwrap();
    let first = get(&envd, &path, &[]).await;
    let etag = first.headers["etag"].to_str().unwrap().to_owned();
    let date = first.headers["last-modified"].to_str().unwrap().to_owned();
    for headers in [[("if-none-match", etag.as_str())], [("if-modified-since", date.as_str())]] {
        let again = get(&envd, &path, &headers).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{headers:?}");
        assert_eq!(again.headers["etag"], etag.as_str());
    }
    let part = [("if-range", etag.as_str()), ("range", "bytes=0-2")];
    assert_eq!(get(&envd, &path, &part).await.text(), "con");
    // The same length within the same second is another version all the same.
    put(&envd, &path, "CONTENT").await;
    let changed = get(&envd, &path, &[("if-none-match", &etag)]).await;
    assert_eq!(changed.text(), "CONTENT");
    assert_eq!(get(&envd, &path, &part).await.text(), "CONTENT", "no part of another version");
}

#[tokio::test]
async fn gzip_comes_only_to_who_asks() {
    let envd = Envd::start().await;
    let (path, bytes) = (envd.home.path().join("file.txt"), "some text\n".repeat(100_000));
    fs::write(&path, &bytes).unwrap();
    let plain = get(&envd, &path, &[]).await;
    assert!(!plain.headers.contains_key("content-encoding"));
    assert_eq!(plain.headers["vary"], "accept-encoding");
    let packed = get(&envd, &path, &[("accept-encoding", "deflate, gzip;q=0.8, *;q=0.1")]).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert_ne!(packed.headers["etag"], plain.headers["etag"]);
    assert!(packed.body.len() < bytes.len() / 20, "{}", packed.body.len());
    assert!(unpack(&packed.body).await == bytes.as_bytes());
    for refused in ["gzip;q=0", "br", "identity, gzip;q=0.5"] {
        let answer = get(&envd, &path, &[("accept-encoding", refused)]).await;
        assert!(answer.body == bytes.as_bytes(), "{refused}");
    }
    let part = get(&envd, &path, &[("accept-encoding", "gzip"), ("range", "bytes=0-3")]).await;
    assert_eq!((part.status.as_u16(), part.text()), (206, "some"));
    for nothing in ["identity;q=0", "*;q=0"] {
        assert_eq!(get(&envd, &path, &[("accept-encoding", nothing)]).await.status, 406, "{nothing}");
    }
    let both = [("accept-encoding", "gzip, identity;q=0"), ("range", "bytes=0-3")];
    assert_eq!(get(&envd, &path, &both).await.status, 406);
    fs::write(&path, "").unwrap();
    let empty = get(&envd, &path, &[("accept-encoding", "gzip")]).await;
    assert_eq!(unpack(&empty.body).await, b"");
}

#[tokio::test]
async fn gzip_is_unpacked_on_its_way_in() {
    let envd = Envd::start().await;
    let path = envd.home.path().join("file");
    let bytes = noise(700_000);
    let mut packed = pack(&bytes).await;
    let gzip = [("content-encoding", "gzip")];
    let answer = envd.call(http::Method::PUT, &uri(&path), &gzip, packed.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(fs::read(&path).unwrap() == bytes);
    // Two members behind each other are one file.
    packed.extend(pack(b"and more").await);
    assert_eq!(envd.call(http::Method::PUT, &uri(&path), &gzip, packed.clone()).await.status, 200);
    assert!(fs::read(&path).unwrap() == [bytes.as_slice(), b"and more"].concat());
    let good = fs::read(&path).unwrap();
    let mut broken = packed.clone();
    broken[350_000] ^= 0xFF;
    for (what, body) in
        [("no gzip", b"plain".to_vec()), ("cut", packed[..packed.len() - 30].to_vec()), ("broken", broken)]
    {
        let answer = envd.call(http::Method::PUT, &uri(&path), &gzip, body).await;
        assert_eq!(answer.status, 400, "{what} {answer:?}");
        assert!(answer.json()["message"].as_str().unwrap().contains("gzip"), "{answer:?}");
    }
    for encoding in ["br", "deflate", "gzip, gzip", "x"] {
        let answer = envd.call(http::Method::PUT, &uri(&path), &[("content-encoding", encoding)], "x").await;
        assert_eq!(answer.status, 400, "{encoding}");
    }
    assert!(fs::read(&path).unwrap() == good);
    let answer = envd.call(http::Method::PUT, &uri(&path), &[("content-encoding", "identity")], "plain").await;
    assert_eq!(answer.status, 200);
    assert_eq!(fs::read(&path).unwrap(), b"plain");
    assert_eq!(names(envd.home.path()), ["file", "run"]);
}

pub async fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    GzipEncoder::new(bytes).read_to_end(&mut packed).await.expect("packs");
    packed
}

async fn unpack(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzipDecoder::new(bytes).read_to_end(&mut plain).await.expect("gzip");
    plain
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_sent_breaks_the_answer_off() {
    let envd = Envd::start().await;
    let path = envd.home.path().join("file");
    let file = fs::File::create(&path).unwrap();
    file.set_len(64 * 1024 * 1024).unwrap();
    let mut socket = std::net::TcpStream::connect(envd.addr).unwrap();
    socket.set_read_timeout(Some(crate::envd::SOON)).unwrap();
    write!(socket, "GET {} HTTP/1.1\r\nhost: x\r\n{TOKEN_HEADER}: {TOKEN}\r\n\r\n", uri(&path)).unwrap();
    let mut buffer = vec![0; 1024 * 1024];
    let mut got = socket.read(&mut buffer).unwrap();
    assert!(buffer.starts_with(b"HTTP/1.1 200"));
    file.set_len(1024 * 1024).unwrap();
    // Either a clean end or a reset; what matters is that it ends before what was promised.
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                break;
            }
        }
    }
    assert!(got < 64 * 1024 * 1024, "{got}");
}
