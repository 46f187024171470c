//! One file in, one file out.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use http::Method;
use serde_json::json;
use wrenn_contract::guest::Init;

use super::*;
use crate::envd::Wish;

#[tokio::test]
async fn what_is_put_is_got_back_byte_for_byte() {
    let envd = Envd::start().await;
    let dir = envd.home.path().join("made by/the üpload");
    for len in [0, 1, 4096, 262_143, 262_144, 262_145, 3 * 262_144 + 17] {
        let (path, bytes) = (dir.join(format!("{len} bytes & ?#%.bin")), noise(len));
        let answer = put(&envd, &path, bytes.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(answer.json(), json!([{"path": path.to_str().unwrap(), "name": name, "type": "file"}]));
        assert!(fs::read(&path).unwrap() == bytes, "{len} on disk");
        let answer = get(&envd, &path, &[]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-length"], len.to_string());
        assert_eq!(answer.headers["content-type"], "application/octet-stream");
        assert_eq!(answer.headers["content-disposition"], "inline");
        assert!(answer.body == bytes, "{len} back");
    }
    assert_eq!(mode(&dir), 0o755);
    assert_eq!(mode(&dir.join("1 bytes & ?#%.bin")), 0o644);
    assert_eq!(names(&dir).len(), 7, "nothing but the files");
}

#[tokio::test]
async fn paths_begin_at_home_or_in_the_default_directory() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    let init = Init { default_workdir: Some(home.to_str().unwrap().into()), ..Init::default() };
    let answer = envd.call(Method::POST, "/init", &[], serde_json::to_vec(&init).unwrap()).await;
    assert_eq!(answer.status, 200);
    for (given, real) in [("a", "a"), ("./b//c", "b/c"), ("~d", "~d"), ("b/../e", "e")] {
        assert_eq!(put(&envd, given, "x").await.status, 200, "{given}");
        assert_eq!(fs::read_to_string(home.join(real)).unwrap(), "x", "{given}");
    }
    // Without a default directory relative paths are at home, and `~` always is.
    let envd = Envd::start().await;
    for path in ["wrenn-files-test", "~/wrenn-files-test"] {
        let answer = put(&envd, path, "x").await;
        assert_eq!(answer.json()[0]["path"], "/root/wrenn-files-test");
        assert_eq!(fs::read_to_string("/root/wrenn-files-test").unwrap(), "x");
        fs::remove_file("/root/wrenn-files-test").unwrap();
    }
}

#[tokio::test]
async fn what_is_not_a_file_is_refused_without_waiting_for_it() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    nix::unistd::mkfifo(&home.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(home.join("socket")).unwrap();
    std::os::unix::fs::symlink("nowhere", home.join("dangling")).unwrap();
    std::os::unix::fs::symlink("loop", home.join("loop")).unwrap();
    fs::write(home.join("file"), "x").unwrap();
    for (path, status, word) in [
        ("pipe", 400, "is a named pipe, not a regular file"),
        ("socket", 400, "is a socket, not a regular file"),
        ("/dev/null", 400, "is a character device, not a regular file"),
        (".", 400, "is a directory"),
        ("/", 400, "is a directory"),
        ("none", 404, "No such file"),
        ("none/below", 404, "No such file"),
        ("dangling", 404, "No such file"),
        ("loop", 400, "symbolic link"),
        ("file/below", 400, "directory"),
        ("/proc/self/fd/0", 400, "symbolic link"),
        ("", 400, "path is required"),
        ("a\0b", 400, "NUL"),
    ] {
        let path = if path.starts_with('/') || path.is_empty() { path.into() } else { home.join(path) };
        let answer = get(&envd, &path, &[]).await;
        assert_eq!(answer.status, status, "{path:?} {answer:?}");
        assert_eq!(answer.json()["code"], status, "{answer:?}");
        assert!(answer.json()["message"].as_str().unwrap().contains(word), "{path:?} {answer:?}");
    }
    let long = "x/".repeat(2049);
    assert_eq!(get(&envd, &long, &[]).await.status, 400);
    assert_eq!(get(&envd, home.join("n".repeat(256)), &[]).await.status, 400);
    assert_eq!(envd.call(Method::GET, "/files", &[], "").await.status, 400);
    assert_eq!(envd.call(Method::GET, "/files?path=/etc/hostname&username=no-such", &[], "").await.status, 400);
    for (path, status, word) in
        [("pipe", 409, "nobody reads the named pipe"), ("socket", 400, "a socket"), (".", 400, "directory")]
    {
        let answer = put(&envd, home.join(path), "new").await;
        assert_eq!(answer.status, status, "{path} {answer:?}");
        assert!(answer.json()["message"].as_str().unwrap().contains(word), "{path} {answer:?}");
    }
    assert_eq!(put(&envd, "/dev/null", "new").await.status, 200);
    for path in [home.join("new/"), "/".into(), home.join("loop"), home.join("file/x")] {
        let answer = put(&envd, &path, "new").await;
        assert_eq!(answer.status, 400, "{path:?} {answer:?}");
    }
    assert!(fs::symlink_metadata(home.join("pipe")).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
    assert_eq!(fs::read_to_string(home.join("file")).unwrap(), "x");
}

#[tokio::test]
async fn files_that_are_made_up_as_they_are_read_come_whole() {
    let envd = Envd::start().await;
    let answer = get(&envd, "/proc/cpuinfo", &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-length"], answer.body.len().to_string());
    assert!(answer.text().contains("processor"));
    // sysfs says 4096 of every file.
    let answer = get(&envd, "/sys/kernel/mm/transparent_hugepage/enabled", &[("range", "bytes=0-1")]).await;
    assert_eq!(answer.status, 200, "parts of such files cannot be had");
    assert!(answer.text().ends_with('\n') && answer.body.len() < 4096);
    // More than fits into the first read, so its length is not known when the answer begins.
    let long = get(&envd, "/proc/kallsyms", &[]).await;
    if long.body.len() > 262_144 {
        assert!(!long.headers.contains_key("content-length"));
    }
    assert_eq!(
        long.body.iter().filter(|b| **b == b'\n').count(),
        fs::read_to_string("/proc/kallsyms").unwrap().lines().count()
    );
}

#[tokio::test]
async fn an_existing_file_keeps_its_mode_and_links_are_written_through() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    fs::write(home.join("script"), "old").unwrap();
    chmod(&home.join("script"), 0o4751);
    assert_eq!(put(&envd, home.join("script"), "new").await.status, 200);
    assert_eq!(mode(&home.join("script")), 0o751, "but no set-id bit");

    std::os::unix::fs::symlink("script", home.join("link")).unwrap();
    std::os::unix::fs::symlink(home.join("link"), home.join("link of a link")).unwrap();
    assert_eq!(put(&envd, home.join("link of a link"), "through").await.status, 200);
    assert_eq!(fs::read_to_string(home.join("script")).unwrap(), "through");
    assert!(fs::symlink_metadata(home.join("link of a link")).unwrap().is_symlink());
    assert_eq!(mode(&home.join("script")), 0o751);

    // A link that leads to nothing yet makes what it leads to.
    std::os::unix::fs::symlink("later/file", home.join("dangling")).unwrap();
    let answer = put(&envd, home.join("dangling"), "made").await;
    assert_eq!(answer.json()[0]["path"], home.join("dangling").to_str().unwrap());
    assert_eq!(fs::read_to_string(home.join("later/file")).unwrap(), "made");

    // A directory that is a link is as good as one.
    std::os::unix::fs::symlink("later", home.join("dir")).unwrap();
    assert_eq!(put(&envd, home.join("dir/../up"), "x").await.status, 200);
    assert!(home.join("up").exists());

    // The old file lives on under its other name.
    fs::hard_link(home.join("up"), home.join("other")).unwrap();
    put(&envd, home.join("up"), "y").await;
    assert_eq!(fs::read_to_string(home.join("other")).unwrap(), "x");
}

#[tokio::test]
async fn a_program_that_runs_can_be_replaced() {
    let envd = Envd::start().await;
    let program = envd.home.path().join("sleep");
    fs::copy("/bin/sleep", &program).unwrap();
    chmod(&program, 0o755);
    let mut running = std::process::Command::new(&program).arg("60").spawn().unwrap();
    let answer = put(&envd, &program, "#!/bin/sh\n").await;
    let alive = running.try_wait().unwrap().is_none();
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(alive);
    assert_eq!(mode(&program), 0o755);
    assert_eq!(fs::metadata(&program).unwrap().size(), 10);
}

#[tokio::test]
async fn names_say_what_a_file_is() {
    let envd = Envd::start().await;
    for (name, kind) in [
        ("a.TXT", "text/plain; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.html", "text/html; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/gzip"),
        ("a", "application/octet-stream"),
        (".png", "application/octet-stream"),
    ] {
        fs::write(envd.home.path().join(name), "x").unwrap();
        let answer = get(&envd, envd.home.path().join(name), &[]).await;
        assert_eq!(answer.headers["content-type"], kind, "{name}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn a_head_request_says_the_length_and_sends_nothing() {
    let envd = Envd::start_with(Wish::default()).await;
    fs::write(envd.home.path().join("file"), noise(1_000_000)).unwrap();
    let answer = envd.call(Method::HEAD, &uri(envd.home.path().join("file")), &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    assert_eq!(answer.headers["content-length"], "1000000");
    assert_eq!(answer.headers["accept-ranges"], "bytes");
}
