//! Watching directories: polled and streamed.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::time::Duration;

use connectrpc::ErrorCode;
use connectrpc::client::{CallOptions, ServerStream};
use hyper::body::Incoming;
use wrenn_contract::proto::filesystem::__buffa::oneof::watch_dir_response::Event as Message;
use wrenn_contract::proto::filesystem::{
    CreateWatcherRequest, EventType, GetWatcherEventsRequest, RemoveWatcherRequest, WatchDirRequest, WatchDirResponse,
    WatchDirResponseView,
};
use wrenn_domain::limits::{WATCHER_EVENTS_MAX, WATCHERS_MAX};
use wrenn_envd::disk::Asker;
use wrenn_envd::filesystem::watch::Watchers;

use super::*;
use crate::envd::{SOON, eventually};

use EventType::{
    EVENT_TYPE_CHMOD as CHMOD, EVENT_TYPE_CREATE as CREATE, EVENT_TYPE_REMOVE as REMOVE, EVENT_TYPE_RENAME as RENAME,
    EVENT_TYPE_UNSPECIFIED as LOST, EVENT_TYPE_WRITE as WRITE,
};

type Seen = (String, EventType);

fn seen(name: &str, kind: EventType) -> Seen {
    (name.to_owned(), kind)
}

async fn watcher(envd: &Envd, path: &Path, recursive: bool) -> Result<String, ErrorCode> {
    let ask = CreateWatcherRequest { path: path.to_str().expect("UTF-8").into(), recursive, ..Default::default() };
    let answer = envd.filesystem().create_watcher(ask).await;
    answer.map(|a| a.into_owned().watcher_id).map_err(|error| error.code)
}

async fn poll(envd: &Envd, id: &str) -> Result<Vec<Seen>, ErrorCode> {
    let ask = GetWatcherEventsRequest { watcher_id: id.to_owned(), ..Default::default() };
    let answer = envd.filesystem().get_watcher_events(ask).await.map_err(|error| error.code)?;
    Ok(answer.into_owned().events.into_iter().map(|e| (e.name, e.r#type.as_known().expect("known"))).collect())
}

/// Polls until `last` was seen; what came before it is answered too.
async fn until(envd: &Envd, id: &str, last: &Seen) -> Vec<Seen> {
    let mut all = Vec::new();
    eventually("the last event", async || {
        all.extend(poll(envd, id).await.expect("the watcher is there"));
        all.contains(last)
    })
    .await;
    all
}

#[tokio::test]
async fn each_change_is_seen_once_and_in_order() {
    let envd = Envd::start().await;
    let dir = envd.home.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("old"), "x").unwrap();
    let id = watcher(&envd, &dir, false).await.unwrap();
    fs::write(dir.join("new"), "x").unwrap();
    chmod(&dir.join("new"), 0o600);
    fs::rename(dir.join("new"), dir.join("named")).unwrap();
    fs::remove_file(dir.join("old")).unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/unseen"), "x").unwrap();
    fs::write(dir.join("end"), "").unwrap();
    assert_eq!(
        until(&envd, &id, &seen("end", CREATE)).await,
        [
            seen("new", CREATE),
            seen("new", WRITE),
            seen("new", CHMOD),
            seen("new", RENAME),
            seen("named", CREATE),
            seen("old", REMOVE),
            seen("sub", CREATE),
            seen("end", CREATE),
        ]
    );
    assert_eq!(poll(&envd, &id).await.unwrap(), []);
    let ask = RemoveWatcherRequest { watcher_id: id.clone(), ..Default::default() };
    envd.filesystem().remove_watcher(ask.clone()).await.unwrap();
    assert_eq!(poll(&envd, &id).await.unwrap_err(), ErrorCode::NotFound);
    assert_eq!(envd.filesystem().remove_watcher(ask).await.err().unwrap().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn uploads_look_like_what_they_mean() {
    let envd = Envd::start().await;
    let dir = envd.home.path().join("dir");
    fs::create_dir(&dir).unwrap();
    let id = watcher(&envd, &dir, false).await.unwrap();
    put(&envd, dir.join("file"), "new").await;
    chmod(&dir.join("file"), 0o666);
    put(&envd, dir.join("file"), "replaced").await;
    assert_eq!(mode(&dir.join("file")), 0o666);
    fs::write(dir.join("end"), "").unwrap();
    let expected =
        [seen("file", CREATE), seen("file", WRITE), seen("file", CHMOD), seen("file", WRITE), seen("end", CREATE)];
    assert_eq!(until(&envd, &id, &seen("end", CREATE)).await, expected);
}

#[tokio::test]
async fn a_recursive_watcher_sees_into_directories_made_later() {
    let envd = Envd::start().await;
    let (dir, away) = (envd.home.path().join("dir"), envd.home.path().join("away"));
    fs::create_dir_all(dir.join("there/before")).unwrap();
    fs::create_dir_all(away.join("full/deep")).unwrap();
    fs::write(away.join("full/deep/file"), "x").unwrap();
    symlink(&away, dir.join("link")).unwrap();
    let id = watcher(&envd, &dir, true).await.unwrap();

    fs::write(dir.join("there/before/file"), "x").unwrap();
    let all = until(&envd, &id, &seen("there/before/file", WRITE)).await;
    assert_eq!(all, [seen("there/before/file", CREATE), seen("there/before/file", WRITE)]);

    // Made in one breath: the kernel tells of the first only, and the rest must be found.
    for n in 0..50 {
        let deep = format!("n{n}/a/b");
        fs::create_dir_all(dir.join(&deep)).unwrap();
        fs::write(dir.join(&deep).join("file"), "").unwrap();
        let all = until(&envd, &id, &seen(&format!("{deep}/file"), CREATE)).await;
        let mut count = BTreeMap::new();
        all.iter()
            .filter(|(_, kind)| *kind == CREATE)
            .for_each(|(name, _)| *count.entry(name.clone()).or_insert(0) += 1);
        let names = [format!("n{n}"), format!("n{n}/a"), deep.clone(), format!("{deep}/file")];
        for name in names {
            assert_eq!(count.get(&name), Some(&1), "{name} in {all:?}");
        }
    }
    // Who puts a file in as soon as it hears of a directory is told of each thing exactly once.
    for n in 0..50 {
        fs::create_dir(dir.join(format!("r{n}"))).unwrap();
        assert_eq!(until(&envd, &id, &seen(&format!("r{n}"), CREATE)).await, [seen(&format!("r{n}"), CREATE)]);
        fs::write(dir.join(format!("r{n}/file")), "x").unwrap();
        let (made, written) = (seen(&format!("r{n}/file"), CREATE), seen(&format!("r{n}/file"), WRITE));
        assert_eq!(until(&envd, &id, &written).await, [made, written.clone()]);
    }
    // A file that came with its directory is told of as written, whenever that was.
    fs::create_dir(away.join("quick")).unwrap();
    fs::write(away.join("quick/file"), "x").unwrap();
    fs::rename(away.join("quick"), dir.join("quick")).unwrap();
    let all = until(&envd, &id, &seen("quick/file", WRITE)).await;
    assert_eq!(all, [seen("quick", CREATE), seen("quick/file", CREATE), seen("quick/file", WRITE)]);
    // Not through links.
    fs::write(away.join("full/unseen"), "x").unwrap();
    // A tree that moves in, within, and out.
    fs::rename(away.join("full"), dir.join("full")).unwrap();
    let all = until(&envd, &id, &seen("full/deep/file", CREATE)).await;
    assert!(!all.iter().any(|(name, _)| name.starts_with("link")), "{all:?}");
    fs::rename(dir.join("full"), dir.join("moved")).unwrap();
    until(&envd, &id, &seen("moved/deep/file", CREATE)).await;
    fs::write(dir.join("moved/deep/more"), "x").unwrap();
    let all = until(&envd, &id, &seen("moved/deep/more", WRITE)).await;
    assert!(!all.iter().any(|(name, _)| name.starts_with("full")), "{all:?}");
    fs::rename(dir.join("moved"), away.join("out")).unwrap();
    until(&envd, &id, &seen("moved", RENAME)).await;
    fs::write(away.join("out/deep/unseen"), "x").unwrap();
    fs::remove_dir_all(dir.join("n0")).unwrap();
    let all = until(&envd, &id, &seen("n0", REMOVE)).await;
    assert!(!all.iter().any(|(name, _)| name.contains("unseen") || name.starts_with("moved")), "{all:?}");
    assert!(all.contains(&seen("n0/a/b/file", REMOVE)), "{all:?}");
}

#[tokio::test]
async fn a_storm_is_bounded_and_says_that_it_was_one() {
    let envd = Envd::start().await;
    let dir = envd.home.path().join("dir");
    fs::create_dir(&dir).unwrap();
    let id = watcher(&envd, &dir, false).await.unwrap();
    for n in 0..10_000 {
        fs::write(dir.join(format!("{n}")), "").unwrap();
    }
    let mut all = Vec::new();
    eventually("the loss is told", async || {
        all.extend(poll(&envd, &id).await.unwrap());
        all.contains(&seen("", LOST))
    })
    .await;
    assert!(all.len() < 10_000);
    // Not polled for the whole of a storm, the queue stops at its bound.
    until_quiet(&envd, &id).await;
    for n in 0..10_000 {
        fs::remove_file(dir.join(format!("{n}"))).unwrap();
    }
    // A second watcher's event comes after everything the kernel had for the first.
    let peek = watcher(&envd, &dir, false).await.unwrap();
    fs::write(dir.join("mark"), "").unwrap();
    until(&envd, &peek, &seen("mark", CREATE)).await;
    let all = poll(&envd, &id).await.unwrap();
    assert_eq!(all.len(), WATCHER_EVENTS_MAX);
    assert_eq!(all.iter().filter(|event| event.1 == LOST).count(), 1);
    assert_eq!(all.last().unwrap(), &seen("", LOST));
    // And it goes on as if nothing had been.
    fs::write(dir.join("after"), "").unwrap();
    assert_eq!(until(&envd, &id, &seen("after", CREATE)).await, [seen("after", CREATE)]);
}

/// Polls until a mark made now has come out.
async fn until_quiet(envd: &Envd, id: &str) {
    eventually("the queue is empty", async || poll(envd, id).await.expect("there").is_empty()).await;
}

#[tokio::test]
async fn two_watchers_of_one_directory_do_not_hinder_each_other() {
    let envd = Envd::start().await;
    let dir = envd.home.path().join("dir");
    fs::create_dir_all(dir.join("sub")).unwrap();
    let (flat, deep) =
        (watcher(&envd, &dir.join("sub"), false).await.unwrap(), watcher(&envd, &dir, true).await.unwrap());
    fs::write(dir.join("sub/one"), "").unwrap();
    assert_eq!(until(&envd, &flat, &seen("one", CREATE)).await, [seen("one", CREATE)]);
    assert_eq!(until(&envd, &deep, &seen("sub/one", CREATE)).await, [seen("sub/one", CREATE)]);
    envd.filesystem().remove_watcher(RemoveWatcherRequest { watcher_id: deep, ..Default::default() }).await.unwrap();
    fs::write(dir.join("sub/two"), "").unwrap();
    assert_eq!(until(&envd, &flat, &seen("two", CREATE)).await, [seen("two", CREATE)]);
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_and_watchers_are_bounded() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    fs::write(home.join("file"), "").unwrap();
    assert_eq!(watcher(&envd, &home.join("none"), false).await.unwrap_err(), ErrorCode::NotFound);
    assert_eq!(watcher(&envd, &home.join("file"), false).await.unwrap_err(), ErrorCode::InvalidArgument);
    assert_eq!(poll(&envd, "w-none").await.unwrap_err(), ErrorCode::NotFound);
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..WATCHERS_MAX {
        ids.insert(watcher(&envd, home, false).await.unwrap());
    }
    assert_eq!(ids.len(), WATCHERS_MAX);
    assert_eq!(watcher(&envd, home, false).await.unwrap_err(), ErrorCode::ResourceExhausted);
    let one = ids.first().unwrap().clone();
    envd.filesystem().remove_watcher(RemoveWatcherRequest { watcher_id: one, ..Default::default() }).await.unwrap();
    watcher(&envd, home, false).await.unwrap();
}

#[tokio::test]
async fn a_tree_of_too_many_directories_is_refused_and_leaves_no_watch() {
    let envd = Envd::start().await;
    let wide = envd.home.path().join("wide");
    for n in 0..130 {
        for m in 0..127 {
            fs::create_dir_all(wide.join(format!("{n}/{m}"))).unwrap();
        }
    }
    assert_eq!(watcher(&envd, &wide, true).await.unwrap_err(), ErrorCode::ResourceExhausted);
    let watches = || {
        let infos = fs::read_dir(format!("/proc/{}/fdinfo", envd.pid())).unwrap().flatten();
        let text = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
        text.map(|text| text.lines().filter(|line| line.starts_with("inotify ")).count()).sum::<usize>()
    };
    eventually("no watch is left", async || watches() == 0).await;
    watcher(&envd, &wide.join("0"), true).await.unwrap();
    assert_eq!(watches(), 128);
}

struct Watching(ServerStream<Incoming, WatchDirResponseView<'static>>);

impl Watching {
    async fn start(envd: &Envd, path: &Path, options: CallOptions) -> Result<Self, ErrorCode> {
        let ask = WatchDirRequest { path: path.to_str().expect("UTF-8").into(), recursive: true, ..Default::default() };
        let stream = envd.filesystem().watch_dir_with_options(ask, options).await.map_err(|error| error.code)?;
        Ok(Self(stream))
    }

    async fn next(&mut self) -> Option<Result<Message, ErrorCode>> {
        let message = tokio::time::timeout(SOON, self.0.message::<WatchDirResponse>()).await.expect("in time");
        match message {
            Ok(message) => message.map(|m| Ok(m.to_owned_message().event.expect("an event"))),
            Err(error) => Some(Err(error.code)),
        }
    }

    async fn event(&mut self) -> Seen {
        match self.next().await.expect("goes on").expect("no error") {
            Message::Filesystem(event) => (event.name, event.r#type.as_known().expect("known")),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stream_starts_tells_and_ends_with_its_directory() {
    let envd = Envd::start().await;
    let dir = envd.home.path().join("dir");
    fs::create_dir(&dir).unwrap();
    let mut watching = Watching::start(&envd, &dir, CallOptions::default()).await.unwrap();
    assert!(matches!(watching.next().await, Some(Ok(Message::Start(_)))));
    fs::create_dir(dir.join("sub")).unwrap();
    assert_eq!(watching.event().await, seen("sub", CREATE));
    fs::write(dir.join("sub/file"), "x").unwrap();
    assert_eq!(watching.event().await, seen("sub/file", CREATE));
    assert_eq!(watching.event().await, seen("sub/file", WRITE));
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(watching.event().await, seen("sub/file", REMOVE));
    assert_eq!(watching.event().await, seen("sub", REMOVE));
    assert_eq!(watching.event().await, seen(".", REMOVE));
    assert!(watching.next().await.is_none());
}

#[tokio::test]
async fn silence_is_broken_by_keepalives_as_often_as_asked() {
    let envd = Envd::start().await;
    let options = CallOptions::default().with_header("keepalive-ping-interval", "1");
    let mut watching = Watching::start(&envd, envd.home.path(), options).await.unwrap();
    assert!(matches!(watching.next().await, Some(Ok(Message::Start(_)))));
    assert!(matches!(watching.next().await, Some(Ok(Message::Keepalive(_)))));
    fs::write(envd.home.path().join("file"), "").unwrap();
    assert_eq!(watching.event().await, seen("file", CREATE));
    assert!(matches!(watching.next().await, Some(Ok(Message::Keepalive(_)))));
}

#[tokio::test]
async fn a_stream_that_is_dropped_leaves_no_watch_behind() {
    let envd = Envd::start().await;
    for _ in 0..3 {
        let mut streams = Vec::new();
        for _ in 0..WATCHERS_MAX / 2 {
            let mut watching = Watching::start(&envd, envd.home.path(), CallOptions::default()).await.unwrap();
            assert!(matches!(watching.next().await, Some(Ok(Message::Start(_)))));
            streams.push(watching);
        }
        drop(streams);
        // Only when all of them are gone is there room for so many.
        let mut ids = Vec::new();
        eventually("their places are free", async || {
            while ids.len() < WATCHERS_MAX {
                match watcher(&envd, envd.home.path(), false).await {
                    Ok(id) => ids.push(id),
                    Err(code) => {
                        assert_eq!(code, ErrorCode::ResourceExhausted);
                        return false;
                    }
                }
            }
            true
        })
        .await;
        for id in ids {
            let ask = RemoveWatcherRequest { watcher_id: id, ..Default::default() };
            envd.filesystem().remove_watcher(ask).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_watcher_nobody_asks_for_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let watchers = Watchers::new(Duration::from_millis(300));
    let asker = || Asker { user: "root".into(), workdir: None };
    let path = || dir.path().to_str().unwrap().to_owned();
    let (asked, forgotten) = (
        watchers.create(asker(), path(), false).await.unwrap(),
        watchers.create(asker(), path(), false).await.unwrap(),
    );
    // Asking for one keeps that one alone.
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        assert!(watchers.events(&asked).is_some());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(watchers.events(&forgotten).is_none());
    assert!(watchers.remove(&asked));
}
