//! Files that may be written but not replaced, what leads elsewhere, and what a caller says about a file besides its bytes.

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};

use http::Method;
use wrenn_contract::guest::Init;
use wrenn_linux::users::User;

use super::*;
use crate::envd::Wish;

async fn as_somebody() -> Envd {
    let init = Init { default_user: Some(SOMEBODY.into()), ..Init::default() };
    Envd::start_with(Wish { init, ..Wish::default() }).await
}

#[tokio::test]
async fn a_file_its_user_may_write_is_written_where_the_directory_may_not_be_changed() {
    let envd = as_somebody().await;
    let somebody = User::find(SOMEBODY).expect("readable").expect("there");
    let ground = common_ground(&envd);
    let (closed, sticky) = (ground.join("closed"), ground.join("sticky"));
    fs::create_dir(&closed).unwrap();
    chmod(&closed, 0o755);
    fs::create_dir(&sticky).unwrap();
    chmod(&sticky, 0o1777);
    for (path, owner) in [(closed.join("his"), somebody.uid), (closed.join("open"), 0), (sticky.join("open"), 0)] {
        fs::write(&path, "old and longer than the new").unwrap();
        chmod(&path, 0o666);
        chown(&path, Some(owner), None).unwrap();
        let before = fs::metadata(&path).unwrap();
        let answer = put(&envd, &path, "new").await;
        assert_eq!(answer.status, 200, "{path:?} {answer:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new", "{path:?}");
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.ino(), after.uid(), after.mode()), (before.ino(), before.uid(), before.mode()), "{path:?}");
    }
    let private = closed.join("private");
    fs::write(&private, "root's").unwrap();
    assert_eq!(put(&envd, &private, "mine").await.status, 403);
    assert_eq!(put(&envd, closed.join("none"), "mine").await.status, 403);
    assert_eq!(fs::read_to_string(&private).unwrap(), "root's");
    // Settings the kernel makes up: read by their owner, envd's own process.
    let own = "/proc/self/comm";
    assert!(matches!(put(&envd, own, "x").await.status.as_u16(), 200 | 403));
}

#[tokio::test]
async fn an_upload_into_a_pipe_reaches_its_reader_and_leaves_the_pipe() {
    let envd = Envd::start().await;
    let pipe = envd.home.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || {
            let mut text = Vec::new();
            fs::File::open(pipe).unwrap().read_to_end(&mut text).unwrap();
            text
        }
    });
    // More than a pipe holds at once. The reader opens it in its own time; until then nobody reads.
    let bytes = vec![7u8; 300_000];
    let mut answer = put(&envd, &pipe, bytes.clone()).await;
    while answer.status == 409 {
        answer = put(&envd, &pipe, bytes.clone()).await;
    }
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(reader.join().unwrap(), bytes);
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
}

#[tokio::test]
async fn a_file_gets_the_mode_and_time_its_sender_names() {
    let envd = Envd::start().await;
    let path = envd.home.path().join("key");
    let send = async |query: &str| envd.call(Method::PUT, &format!("{}{query}", uri(&path)), &[], "secret").await;
    assert_eq!(send("&mode=600&modified_ms=1000000000500").await.status, 200);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o600, 1_000_000_000, 500_000_000));
    assert_eq!(send("").await.status, 200);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600, "kept when none is named");
    assert_eq!(send("&mode=755").await.status, 200);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    for bad in ["&mode=1777", "&mode=8", "&mode=", "&mode=+7", "&mode=rw", "&modified_ms=-1", "&modified_ms=x"] {
        assert_eq!(send(bad).await.status, 400, "{bad}");
    }
}
