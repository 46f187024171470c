//! Files in a real envd.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wrenn_domain::limits::FILE_WRITE_BYTES_MAX;
use wrenn_testkit::{SmallDisk, wait_until};

use crate::harness::{Answer, SOON, World, form};

async fn call(world: &World, id: &str, route: &str, body: Value) -> Answer {
    world.api.post(&format!("/v1/capsules/{id}/files/{route}"), body).await
}

async fn upload(world: &World, id: &str, route: &str, path: &str, bytes: &[u8]) -> Answer {
    world.api.upload(&format!("/v1/capsules/{id}/files/{route}"), path, bytes).await
}

/// A directory of this test's own; the simulated guest shares this machine's file system.
fn scratch() -> (tempfile::TempDir, String) {
    let dir = tempfile::Builder::new().prefix("wrenn-files-").tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8").to_owned();
    (dir, path)
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let (_dir, dir) = scratch();
    let all: Vec<u8> = (0..=255).cycle().take(3 * 1024 * 1024 + 7).collect();
    for (write, read) in [("write", "read"), ("stream/write", "stream/read")] {
        for (name, bytes) in [("empty", &all[..0]), ("small ü & ?#%.bin", &all[..10]), ("large", &all[..])] {
            let path = format!("{dir}/made/by/{write}/{name}");
            let answer = upload(&world, &id, write, &path, bytes).await;
            assert_eq!(answer.status, 204, "{name} {:?}", answer.body);
            let back = call(&world, &id, read, json!({"path": path})).await;
            assert_eq!(back.status, 200);
            assert_eq!(back.headers["content-type"], "application/octet-stream");
            assert!(back.body == bytes, "{name}: {} of {} bytes", back.body.len(), bytes.len());
        }
    }
}

#[tokio::test]
async fn files_that_cannot_be_read_or_written_say_why() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let (_dir, dir) = scratch();
    upload(&world, &id, "write", &format!("{dir}/file"), b"x").await;
    for route in ["read", "stream/read"] {
        call(&world, &id, route, json!({"path": format!("{dir}/none")})).await.is_error(404, "not_found");
        call(&world, &id, route, json!({"path": dir})).await.is_error(400, "invalid_request");
        call(&world, &id, route, json!({"path": ""})).await.is_error(400, "invalid_request");
        call(&world, &id, route, json!({})).await.is_error(400, "invalid_request");
        call(&world, &id, route, json!({"path": "x".repeat(4097)})).await.is_error(400, "invalid_request");
        call(&world, &id, route, json!({"path": "a\0b"})).await.is_error(400, "invalid_request");
    }
    for route in ["write", "stream/write"] {
        upload(&world, &id, route, "", b"x").await.is_error(400, "invalid_request");
        upload(&world, &id, route, &dir, b"x").await.is_error(400, "invalid_request");
        upload(&world, &id, route, &"x".repeat(5000), b"x").await.is_error(400, "invalid_request");
    }
}

#[tokio::test]
async fn parts_in_the_wrong_order_write_nothing() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let (_dir, dir) = scratch();
    let path = format!("{dir}/file");
    upload(&world, &id, "write", &path, b"old").await;
    let p = path.as_bytes();
    let cut = |bytes: Vec<u8>, keep: usize| bytes[..keep].to_vec();
    let whole = form(&[("path", p), ("file", b"new content")]);
    for route in ["write", "stream/write"] {
        for body in [
            form(&[("file", b"new"), ("path", p)]),
            form(&[("path", p)]),
            form(&[("path", p), ("other", b"new")]),
            form(&[]),
            b"no form at all".to_vec(),
            Vec::new(),
            cut(whole.clone(), whole.len() - 14),
        ] {
            let request = world
                .api
                .request(Method::POST, &format!("/v1/capsules/{id}/files/{route}"))
                .header("content-type", "multipart/form-data; boundary=XXX");
            let shown = String::from_utf8_lossy(&body).into_owned();
            let answer = world.api.send(request.body(Full::from(body)).expect("valid")).await;
            assert_eq!(answer.status, 400, "{shown}");
            answer.is_error(400, "invalid_request");
        }
        call(&world, &id, route, json!({"path": path})).await.is_error(415, "unsupported_media_type");
    }
    assert_eq!(call(&world, &id, "read", json!({"path": path})).await.body, "old");
}

#[tokio::test]
async fn a_buffered_write_has_a_bound_and_a_streamed_one_has_none() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let (_dir, dir) = scratch();
    let path = format!("{dir}/big");
    let size = FILE_WRITE_BYTES_MAX + 1;
    let send = |route: &'static str| {
        let (sent, uri) = (Arc::new(AtomicU64::new(0)), world.plane.url(&format!("/v1/capsules/{id}/files/{route}")));
        let head = format!(
            "--XXX\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n{path}\r\n--XXX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n"
        );
        let chunk = Bytes::from(vec![7u8; 1024 * 1024]);
        let chunks = (0..size.div_ceil(chunk.len() as u64)).map(move |n| {
            let left = usize::try_from(size - n * chunk.len() as u64).expect("fits").min(chunk.len());
            chunk.slice(..left)
        });
        let all = [Bytes::from(head)].into_iter().chain(chunks).chain([Bytes::from_static(b"\r\n--XXX--\r\n")]);
        let counted = sent.clone();
        let body = StreamBody::new(futures::stream::iter(all).map(move |bytes| {
            counted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Frame::data(bytes))
        }));
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header("x-api-key", &world.key)
            .header("content-type", "multipart/form-data; boundary=XXX")
            .body(body)
            .expect("valid");
        async move {
            let client = Client::builder(TokioExecutor::new()).build_http();
            let response = client.request(request).await.expect("an answer");
            (response.status().as_u16(), response.into_body().collect().await.expect("a body").to_bytes())
        }
    };
    let (status, body) = send("write").await;
    assert_eq!(status, 413, "{body:?}");
    call(&world, &id, "read", json!({"path": path})).await.is_error(404, "not_found");
    let (status, body) = send("stream/write").await;
    assert_eq!(status, 204, "{body:?}");
    let back = call(&world, &id, "stream/read", json!({"path": path})).await;
    assert_eq!(back.body.len() as u64, size);
    let expected = Sha256::digest(vec![7u8; usize::try_from(size).expect("fits")]);
    assert_eq!(Sha256::digest(&back.body), expected);
}

#[tokio::test]
async fn an_upload_that_is_refused_says_why_to_a_client_that_sends_all_of_it_first() {
    const BYTES: usize = 40 * 1024 * 1024;
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let (_dir, dir) = scratch();
    let disk = SmallDisk::mount(&Path::new(&dir).join("small"), 1024 * 1024);
    let path = disk.path.join("file");
    let form = form(&[("path", path.to_str().expect("UTF-8").as_bytes()), ("file", &vec![7; BYTES])]);
    let addr = world.plane.addr();
    let other = "cl-0000000000000000000000000";
    let cases = [
        ("no key", &id as &str, 401, "unauthorized"),
        (&world.key, other, 404, ""),
        (&world.key, &id, 507, "disk_full"),
    ];
    for (key, id, status, code) in cases {
        let head = format!(
            "POST /v1/capsules/{id}/files/stream/write HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {key}\r\n\
             content-type: multipart/form-data; boundary=XXX\r\ncontent-length: {}\r\n\r\n",
            form.len()
        );
        let form = form.clone();
        let sent = tokio::task::spawn_blocking(move || {
            let mut socket = TcpStream::connect(addr)?;
            socket.write_all(head.as_bytes())?;
            socket.write_all(&form)?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).map(|_| answer)
        });
        let answer = sent.await.expect("no panic").expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(code), "{answer}");
    }
    assert_eq!(disk.path.read_dir().expect("is there").count(), 0);
}

#[tokio::test]
async fn a_read_of_a_huge_file_is_bounded_and_its_stream_is_not() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let (_dir, dir) = scratch();
    let path = format!("{dir}/sparse");
    std::fs::File::create(&path).and_then(|f| f.set_len(257 * 1024 * 1024)).expect("a sparse file");
    call(&world, &id, "read", json!({"path": path})).await.is_error(413, "payload_too_large");
    assert_eq!(call(&world, &id, "stream/read", json!({"path": path})).await.body.len(), 257 * 1024 * 1024);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_old_file() {
    use tokio::io::AsyncWriteExt;
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let (_dir, dir) = scratch();
    let path = format!("{dir}/file");
    upload(&world, &id, "write", &path, b"old").await;
    let whole = form(&[("path", path.as_bytes()), ("file", &vec![b'n'; 300_000])]);
    let mut socket = tokio::net::TcpStream::connect(world.plane.addr()).await.expect("connects");
    let head = format!(
        "POST /v1/capsules/{id}/files/stream/write HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Type: multipart/form-data; boundary=XXX\r\nContent-Length: {}\r\n\r\n",
        world.key,
        whole.len()
    );
    socket.write_all(head.as_bytes()).await.expect("sends");
    socket.write_all(&whole[..200_000]).await.expect("sends");
    drop(socket);
    // Only the old file, and no half of the new one under any name.
    wait_until("nothing else is left", SOON, || async {
        let names: Vec<_> = std::fs::read_dir(&dir).expect("there").flatten().map(|e| e.file_name()).collect();
        (names == ["file"]).then_some(())
    })
    .await;
    assert_eq!(call(&world, &id, "read", json!({"path": path})).await.body, "old");
}

#[tokio::test]
async fn directories_are_made_listed_and_removed() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let (_dir, dir) = scratch();
    let sub = format!("{dir}/a/b");
    let made = call(&world, &id, "mkdir", json!({"path": sub})).await;
    assert_eq!(made.status, 200, "{:?}", made.body);
    assert_eq!(
        (made.json()["entry"]["type"].as_str(), made.json()["entry"]["name"].as_str()),
        (Some("directory"), Some("b"))
    );
    call(&world, &id, "mkdir", json!({"path": sub})).await.is_error(409, "already_exists");
    upload(&world, &id, "write", &format!("{sub}/f"), b"12345").await;
    std::os::unix::fs::symlink("f", format!("{sub}/link")).expect("a link");
    call(&world, &id, "mkdir", json!({"path": format!("{sub}/f")})).await.is_error(400, "invalid_request");

    let list = call(&world, &id, "list", json!({"path": sub})).await.json();
    let entries = list["entries"].as_array().expect("a list");
    let by_name = |name: &str| entries.iter().find(|e| e["name"] == name).unwrap_or_else(|| panic!("{name} in {list}"));
    let file = by_name("f");
    assert_eq!((file["type"].as_str(), file["size"].as_i64()), (Some("file"), Some(5)));
    assert_eq!(
        (file["path"].as_str(), file["permissions"].as_str()),
        (Some(format!("{sub}/f").as_str()), Some("-rw-r--r--"))
    );
    assert!(file["modified_at"].as_i64().is_some_and(|t| t > 1_600_000_000), "{file}");
    // What it leads to decides: clients ask whether they can read or list it.
    let link = by_name("link");
    assert_eq!(link["type"], "file");
    assert!(link["symlink_target"].as_str().is_some_and(|t| t.ends_with('f')), "{link}");
    let shallow = call(&world, &id, "list", json!({"path": dir})).await.json();
    let deep = call(&world, &id, "list", json!({"path": dir, "depth": 3})).await.json();
    assert_eq!(
        (shallow["entries"].as_array().map(Vec::len), deep["entries"].as_array().map(Vec::len)),
        (Some(1), Some(4))
    );
    for depth in [-1, 0, 33] {
        call(&world, &id, "list", json!({"path": dir, "depth": depth})).await.is_error(400, "invalid_request");
    }
    call(&world, &id, "list", json!({"path": format!("{dir}/none")})).await.is_error(404, "not_found");
    call(&world, &id, "list", json!({"path": format!("{sub}/f")})).await.is_error(400, "invalid_request");

    assert_eq!(call(&world, &id, "remove", json!({"path": format!("{dir}/a")})).await.status, 204);
    call(&world, &id, "remove", json!({"path": format!("{dir}/a")})).await.is_error(404, "not_found");
    assert_eq!(call(&world, &id, "list", json!({"path": dir})).await.json()["entries"], json!([]));
}
