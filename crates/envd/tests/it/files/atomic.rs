//! Uploads that do not come to their end.

use std::io::Write;
use std::net::TcpStream;

use super::*;
use crate::envd::eventually;

/// Sends the head of an upload of `promised` bytes and `sent` of them.
fn begin(envd: &Envd, path: &Path, promised: usize, sent: usize) -> TcpStream {
    let mut socket = TcpStream::connect(envd.addr).expect("connects");
    write!(
        socket,
        "PUT {} HTTP/1.1\r\nhost: x\r\n{TOKEN_HEADER}: {TOKEN}\r\ncontent-length: {promised}\r\n\r\n",
        uri(path)
    )
    .expect("sends");
    socket.write_all(&vec![b'n'; sent]).expect("sends");
    socket
}

async fn begun(envd: &Envd) {
    eventually("a draft is there", async || drafts(envd) == 1).await;
}

#[tokio::test]
async fn a_cut_upload_leaves_the_old_file_and_nothing_else() {
    let envd = Envd::start().await;
    let dir = envd.home.path().join("dir");
    fs::create_dir(&dir).unwrap();
    for (name, old) in [("old", Some("old")), ("new", None)] {
        let path = dir.join(name);
        if let Some(old) = old {
            fs::write(&path, old).unwrap();
        }
        let before = names(&dir);
        let socket = begin(&envd, &path, 1_000_000, 700_000);
        begun(&envd).await;
        assert_eq!(names(&dir), before, "a draft has no name");
        drop(socket);
        eventually("the draft is gone", async || drafts(&envd) == 0).await;
        assert_eq!(names(&dir), before);
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), old);
    }
}

#[tokio::test]
async fn a_killed_envd_leaves_the_old_file_and_nothing_else() {
    let envd = Envd::start().await;
    let dir = envd.home.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("old"), "old").unwrap();
    let _sockets: Vec<_> = [("old", 1), ("new", 2)]
        .into_iter()
        .map(|(name, number)| (begin(&envd, &dir.join(name), 1_000_000, 700_000), number))
        .collect();
    eventually("both are under way", async || drafts(&envd) == 2).await;
    let pid = nix::unistd::Pid::from_raw(envd.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("it is dead", async || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    })
    .await;
    assert_eq!(names(&dir), ["old"]);
    assert_eq!(fs::read_to_string(dir.join("old")).unwrap(), "old");
}

#[tokio::test]
async fn readers_see_the_old_file_or_the_new_one_and_never_a_part() {
    let envd = Envd::start().await;
    let path = envd.home.path().join("file");
    let (old, new) = (vec![b'o'; 400_000], vec![b'n'; 500_000]);
    put(&envd, &path, old.clone()).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (path, stop, old, new) = (path.clone(), stop.clone(), old.clone(), new.clone());
        move || {
            let mut reads = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
                let seen = fs::read(&path).expect("always there");
                assert!(seen == old || seen == new, "{} bytes", seen.len());
                reads += 1;
            }
            reads
        }
    });
    for _ in 0..50 {
        assert_eq!(put(&envd, &path, new.clone()).await.status, 200);
        assert_eq!(put(&envd, &path, old.clone()).await.status, 200);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
    assert_eq!(names(envd.home.path()), ["file", "run"]);
}

#[tokio::test]
async fn two_uploads_to_one_name_end_with_one_of_them_whole() {
    let envd = Envd::start().await;
    let path = envd.home.path().join("file");
    for _ in 0..20 {
        let (a, b) = (vec![b'a'; 300_000], vec![b'b'; 300_001]);
        let both = futures::future::join(put(&envd, &path, a.clone()), put(&envd, &path, b.clone())).await;
        assert_eq!((both.0.status.as_u16(), both.1.status.as_u16()), (200, 200));
        let left = fs::read(&path).unwrap();
        assert!(left == a || left == b);
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(names(envd.home.path()), ["run"]);
}
