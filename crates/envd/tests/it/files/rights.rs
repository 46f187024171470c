//! Whose files these are: every call has its user's rights and no others.

use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use connectrpc::ErrorCode;
use http::Method;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use wrenn_contract::guest::Init;
use wrenn_contract::proto::filesystem::{
    CreateWatcherRequest, ListDirRequest, MakeDirRequest, MoveRequest, RemoveRequest, StatRequest,
};
use wrenn_linux::users::User;

use super::*;
use crate::envd::Wish;

async fn as_somebody() -> Envd {
    let init = Init { default_user: Some(SOMEBODY.into()), ..Init::default() };
    Envd::start_with(Wish { init, ..Wish::default() }).await
}

fn somebody() -> User {
    User::find(SOMEBODY).expect("readable").expect("there")
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().expect("UTF-8").to_owned()
}

#[tokio::test]
async fn the_default_user_reads_and_writes_only_what_is_his() {
    let envd = as_somebody().await;
    let ground = common_ground(&envd);
    let secret = ground.join("secret");
    fs::write(&secret, "root's").unwrap();
    chmod(&secret, 0o600);
    let closed = ground.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("inside"), "root's").unwrap();
    chmod(&closed, 0o700);
    for path in [&secret, &closed.join("inside"), Path::new("/etc/shadow"), Path::new("/root/x")] {
        let answer = get(&envd, path, &[]).await;
        assert_eq!(answer.status, 403, "{path:?} {answer:?}");
        let answer = put(&envd, path, "mine now").await;
        assert_eq!(answer.status, 403, "{path:?} {answer:?}");
    }
    for path in ["/etc/wrenn-test", "/etc/wrenn/made/deep", "/root/wrenn-test"] {
        assert_eq!(put(&envd, path, "x").await.status, 403, "{path}");
    }
    assert!(!Path::new("/etc/wrenn-test").exists() && !Path::new("/etc/wrenn").exists());
    // His own, with the directories on the way.
    let own = ground.join("his/own/file");
    assert_eq!(put(&envd, &own, "his").await.status, 200);
    for path in [&own, &ground.join("his/own"), &ground.join("his")] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (somebody().uid, somebody().gid), "{path:?}");
    }
    // Root's sticky directory lets him make files, and not replace another's; one he may write he writes where it is.
    let open = ground.join("open");
    fs::write(&open, "root's").unwrap();
    chmod(&open, 0o666);
    assert_eq!(put(&envd, &open, "x").await.status, 200);
    assert_eq!((fs::read_to_string(&open).unwrap().as_str(), fs::metadata(&open).unwrap().uid()), ("x", 0));
    chmod(&open, 0o644);
    assert_eq!(put(&envd, &open, "y").await.status, 403);
    // What is read-only stays so though its directory is his.
    chmod(&own, 0o444);
    assert_eq!(put(&envd, &own, "x").await.status, 403);
    assert_eq!(fs::read_to_string(&own).unwrap(), "his");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "root's");
}

#[tokio::test]
async fn a_call_may_name_its_user_in_three_ways() {
    use base64::Engine;
    let envd = as_somebody().await;
    let ground = common_ground(&envd);
    let secret = ground.join("secret");
    fs::write(&secret, "root's").unwrap();
    chmod(&secret, 0o600);
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("root:"));
    assert_eq!(get(&envd, &secret, &[]).await.status, 403);
    assert_eq!(get(&envd, &secret, &[("x-wrenn-user", "root")]).await.text(), "root's");
    assert_eq!(get(&envd, &secret, &[("authorization", &basic)]).await.text(), "root's");
    let query = format!("{}&username=root", uri(&secret));
    assert_eq!(envd.call(Method::GET, &query, &[], "").await.text(), "root's");
    let query = format!("{}&username={SOMEBODY}", uri(&secret));
    assert_eq!(envd.call(Method::GET, &query, &[("x-wrenn-user", "root")], "").await.status, 403);
    let answer = get(&envd, &secret, &[("x-wrenn-user", "no-such-user")]).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("no-such-user"));
    let as_root = filesystem_as(&envd, "root");
    let entry = as_root.stat(StatRequest { path: text(&secret), ..Default::default() }).await.unwrap().into_owned();
    assert_eq!(entry.entry.into_option().unwrap().owner, "root");
    let unknown = filesystem_as(&envd, "no-such-user");
    let refused = unknown.stat(StatRequest { path: text(&secret), ..Default::default() }).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn every_call_of_the_service_has_the_users_rights() {
    let envd = as_somebody().await;
    let ground = common_ground(&envd);
    let closed = ground.join("closed");
    fs::create_dir_all(closed.join("inner")).unwrap();
    fs::write(closed.join("file"), "root's").unwrap();
    chmod(&closed, 0o700);
    let client = envd.filesystem();
    let inner = text(closed.join("inner"));
    let file = text(closed.join("file"));
    let refused = |result: Result<(), connectrpc::ConnectError>, what: &str| {
        let error = result.expect_err(what);
        assert_eq!(error.code, ErrorCode::PermissionDenied, "{what} {error:?}");
    };
    let ask = StatRequest { path: file.clone(), ..Default::default() };
    refused(client.stat(ask).await.map(drop), "stat");
    let ask = ListDirRequest { path: text(&closed), ..Default::default() };
    refused(client.list_dir(ask).await.map(drop), "list");
    let ask = MakeDirRequest { path: text(closed.join("made")), ..Default::default() };
    refused(client.make_dir(ask).await.map(drop), "make");
    let ask = MakeDirRequest { path: "/etc/wrenn-test/made".into(), ..Default::default() };
    refused(client.make_dir(ask).await.map(drop), "make in /etc");
    let ask = RemoveRequest { path: inner.clone(), ..Default::default() };
    refused(client.remove(ask).await.map(drop), "remove");
    let ask = RemoveRequest { path: text(&closed), ..Default::default() };
    refused(client.remove(ask).await.map(drop), "remove a closed directory");
    let ask = MoveRequest { source: file, destination: text(ground.join("mine")), ..Default::default() };
    refused(client.r#move(ask).await.map(drop), "move out");
    fs::write(ground.join("loose"), "root's").unwrap();
    let ask = MoveRequest {
        source: text(ground.join("loose")),
        destination: text(ground.join("mine")),
        ..Default::default()
    };
    refused(client.r#move(ask).await.map(drop), "move another's out of a sticky directory");
    let ask = CreateWatcherRequest { path: inner, ..Default::default() };
    refused(client.create_watcher(ask).await.map(drop), "watch");
    assert_eq!(names(&closed), ["file", "inner"]);
    let ask = MakeDirRequest { path: text(ground.join("his/deep")), ..Default::default() };
    let made = client.make_dir(ask).await.unwrap().into_owned().entry.into_option().unwrap();
    assert_eq!((made.owner.as_str(), made.permissions.as_str()), (SOMEBODY, "drwxr-xr-x"));
}

#[tokio::test]
async fn links_lead_nobody_where_he_could_not_go_himself() {
    let envd = as_somebody().await;
    let ground = common_ground(&envd);
    let closed = ground.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("file"), "root's").unwrap();
    chmod(&closed, 0o755);
    chmod(&closed.join("file"), 0o600);
    let his = ground.join("his");
    fs::create_dir(&his).unwrap();
    symlink(&closed, his.join("dir")).unwrap();
    symlink(closed.join("file"), his.join("file")).unwrap();
    symlink(closed.join("new"), his.join("new")).unwrap();
    for path in
        [his.join("dir/file"), his.join("file"), his.join("new"), his.join("dir/new"), his.join("x/../dir/file")]
    {
        chown(&his, Some(somebody().uid), None).unwrap();
        let answer = put(&envd, &path, "mine").await;
        assert_eq!(answer.status, 403, "{path:?} {answer:?}");
    }
    for path in [his.join("dir/file"), his.join("file"), "/proc/1/root/etc/shadow".into(), "/proc/1/environ".into()] {
        let status = get(&envd, &path, &[]).await.status.as_u16();
        assert!(matches!(status, 400 | 403), "{path:?} {status}");
    }
    assert_eq!(fs::read_to_string(closed.join("file")).unwrap(), "root's");
    assert_eq!(names(&closed), ["file"]);
}

/// Swaps two names for each other as fast as it can, until dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Swapper {
    fn start(a: PathBuf, b: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut swaps = 0;
                while !stop.load(Ordering::Relaxed) {
                    swaps += u64::from(renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).is_ok());
                }
                swaps
            }
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("runs").join().expect("no panic")
    }
}

#[tokio::test]
async fn a_parent_swapped_for_a_link_gains_nothing() {
    let envd = as_somebody().await;
    let ground = common_ground(&envd);
    let (target, dir, link) = (ground.join("roots"), ground.join("dir"), ground.join("link"));
    fs::create_dir(&target).unwrap();
    chmod(&target, 0o755);
    fs::create_dir(&dir).unwrap();
    chmod(&dir, 0o777);
    symlink(&target, &link).unwrap();
    let swapper = Swapper::start(dir.clone(), link);
    let (mut written, mut refused) = (0, 0);
    for n in 0..300 {
        match put(&envd, dir.join(format!("{n}")), "x").await.status.as_u16() {
            200 => written += 1,
            403 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(swapper.end() > 0);
    assert_eq!(names(&target).len(), 0, "written {written}, refused {refused}");
    assert!(written > 0 && refused > 0, "written {written}, refused {refused}: the race was not run");
}

#[tokio::test]
async fn a_removal_is_not_led_out_of_its_tree() {
    let envd = Envd::start().await;
    let ground = common_ground(&envd);
    let victim = ground.join("victim");
    fs::create_dir(&victim).unwrap();
    for n in 0..20 {
        fs::write(victim.join(format!("{n}")), "precious").unwrap();
    }
    for round in 0..40 {
        let (tree, aside) = (ground.join(format!("tree{round}")), ground.join(format!("aside{round}")));
        for n in 0..30 {
            fs::create_dir_all(tree.join(format!("sub/{n}/deep"))).unwrap();
        }
        symlink(&victim, &aside).unwrap();
        let swapper = Swapper::start(tree.join("sub"), aside);
        let ask = RemoveRequest { path: text(&tree), ..Default::default() };
        let removed = filesystem_as(&envd, "root").remove(ask).await;
        swapper.end();
        if let Err(error) = removed {
            let known = [ErrorCode::InvalidArgument, ErrorCode::FailedPrecondition, ErrorCode::NotFound];
            assert!(known.contains(&error.code), "{error:?}");
        }
        assert_eq!(names(&victim).len(), 20, "round {round}");
    }
}
