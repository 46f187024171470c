//! Looking at, making, moving and removing over RPC.

use std::os::unix::fs::symlink;

use connectrpc::ErrorCode;
use connectrpc::client::CallOptions;
use http::Method;
use wrenn_contract::proto::filesystem::{
    EntryInfo, FileType, ListDirRequest, MakeDirRequest, MoveRequest, RemoveRequest, StatRequest,
};
use wrenn_testkit::SmallDisk;

use super::*;

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().expect("UTF-8").to_owned()
}

async fn stat(envd: &Envd, path: impl AsRef<Path>) -> Result<EntryInfo, ErrorCode> {
    let answer = envd.filesystem().stat(StatRequest { path: text(path), ..Default::default() }).await;
    answer.map(|a| a.into_owned().entry.into_option().expect("an entry")).map_err(|error| error.code)
}

async fn list(envd: &Envd, path: impl AsRef<Path>, depth: u32) -> Result<Vec<EntryInfo>, ErrorCode> {
    let ask = ListDirRequest { path: text(path), depth, ..Default::default() };
    // What the control plane takes.
    let bytes = 64 * 1024 * 1024;
    let options = CallOptions::default().with_max_message_size(bytes).with_element_memory_limit(4 * bytes);
    let answer = envd.filesystem().list_dir_with_options(ask, options).await;
    answer.map(|a| a.into_owned().entries).map_err(|error| error.code)
}

async fn make(envd: &Envd, path: impl AsRef<Path>) -> Result<EntryInfo, ErrorCode> {
    let answer = envd.filesystem().make_dir(MakeDirRequest { path: text(path), ..Default::default() }).await;
    answer.map(|a| a.into_owned().entry.into_option().expect("an entry")).map_err(|error| error.code)
}

async fn remove(envd: &Envd, path: impl AsRef<Path>) -> Result<(), ErrorCode> {
    let answer = envd.filesystem().remove(RemoveRequest { path: text(path), ..Default::default() }).await;
    answer.map(drop).map_err(|error| error.code)
}

async fn rename(envd: &Envd, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<EntryInfo, ErrorCode> {
    let ask = MoveRequest { source: text(from), destination: text(to), ..Default::default() };
    let answer = envd.filesystem().r#move(ask).await;
    answer.map(|a| a.into_owned().entry.into_option().expect("an entry")).map_err(|error| error.code)
}

fn kind(entry: &EntryInfo) -> FileType {
    entry.r#type.as_known().expect("a known type")
}

#[tokio::test]
async fn an_entry_says_what_ls_says() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    fs::write(home.join("file"), "eleven char").unwrap();
    chmod(&home.join("file"), 0o640);
    let entry = stat(&envd, home.join("file")).await.unwrap();
    assert_eq!((entry.name.as_str(), entry.path.as_str()), ("file", text(home.join("file")).as_str()));
    assert_eq!((kind(&entry), entry.size, entry.mode), (FileType::File, 11, 0o640));
    assert_eq!(
        (entry.permissions.as_str(), entry.owner.as_str(), entry.group.as_str()),
        ("-rw-r-----", "root", "root")
    );
    assert_eq!(entry.symlink_target, None);
    let modified = fs::metadata(home.join("file")).unwrap().modified().unwrap();
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    let time = entry.modified_time.into_option().unwrap();
    assert_eq!((time.seconds, time.nanos), (since.as_secs() as i64, since.subsec_nanos() as i32));

    symlink("file", home.join("link")).unwrap();
    let entry = stat(&envd, home.join("link")).await.unwrap();
    assert_eq!((kind(&entry), entry.mode, entry.size), (FileType::File, 0o640, 4));
    assert_eq!(entry.permissions, "lrwxrwxrwx");
    assert_eq!(entry.symlink_target.as_deref(), Some(text(home.join("file")).as_str()));
    symlink(home, home.join("up")).unwrap();
    assert_eq!(kind(&stat(&envd, home.join("up")).await.unwrap()), FileType::Directory);
    symlink("nowhere", home.join("dangling")).unwrap();
    let entry = stat(&envd, home.join("dangling")).await.unwrap();
    assert_eq!((kind(&entry), entry.symlink_target.as_deref()), (FileType::Symlink, Some("nowhere")));
    let entry = stat(&envd, "/").await.unwrap();
    assert_eq!((entry.name.as_str(), kind(&entry)), ("/", FileType::Directory));
    assert_eq!(stat(&envd, home.join("none")).await.unwrap_err(), ErrorCode::NotFound);
    assert_eq!(stat(&envd, home.join("file/x")).await.unwrap_err(), ErrorCode::InvalidArgument);
    assert_eq!(stat(&envd, "").await.unwrap_err(), ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn a_listing_goes_as_deep_as_asked_and_through_no_link() {
    let envd = Envd::start().await;
    let top = envd.home.path().join("top");
    fs::create_dir_all(top.join("b/c/d")).unwrap();
    fs::write(top.join("b/file"), "x").unwrap();
    fs::write(top.join("a"), "x").unwrap();
    symlink("b", top.join("link")).unwrap();
    symlink(&top, envd.home.path().join("entry")).unwrap();
    let below = async |path: &Path, depth| {
        let all = list(&envd, path, depth).await.unwrap().into_iter();
        all.map(|e| e.path.strip_prefix(&format!("{}/", path.display())).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(below(&top, 0).await, ["a", "b", "link"]);
    assert_eq!(below(&top, 1).await, ["a", "b", "link"]);
    assert_eq!(below(&top, 2).await, ["a", "b", "b/c", "b/file", "link"]);
    assert_eq!(below(&top, 32).await, ["a", "b", "b/c", "b/c/d", "b/file", "link"]);
    assert_eq!(below(&envd.home.path().join("entry"), 2).await.len(), 5, "named as asked for");
    assert_eq!(below(&top.join("b/c/d"), 1).await.len(), 0);
    for (path, depth, code) in [
        (top.join("none"), 1, ErrorCode::NotFound),
        (top.join("a"), 1, ErrorCode::InvalidArgument),
        (top.clone(), 33, ErrorCode::InvalidArgument),
    ] {
        assert_eq!(list(&envd, &path, depth).await.unwrap_err(), code, "{path:?} {depth}");
    }
}

#[tokio::test]
async fn a_listing_that_is_too_long_is_refused_in_bounded_memory() {
    let envd = Envd::start().await;
    let disk = SmallDisk::mount(&envd.home.path().join("disk"), 400_000_000);
    let top = envd.home.path().join("disk");
    for d in 0..11 {
        many_names(&top.join(format!("{d}")), 9_500);
    }
    assert_eq!(list(&envd, &top, 2).await.unwrap_err(), ErrorCode::ResourceExhausted);
    fs::remove_dir_all(top.join("10")).unwrap();
    assert_eq!(list(&envd, &top, 2).await.unwrap().len(), 10 * 9_501);
    let peak = envd.status_number("VmHWM");
    eprintln!("95010 entries: peak {peak} KiB");
    assert!(peak < 96 * 1024, "{peak} KiB");
    drop(disk);
}

/// Many names of one empty file: quick to make.
fn many_names(dir: &Path, count: usize) {
    fs::create_dir(dir).expect("made");
    fs::write(dir.join("0"), "").expect("made");
    for n in 1..count {
        fs::hard_link(dir.join("0"), dir.join(format!("{n}"))).expect("made");
    }
}

#[tokio::test]
async fn a_directory_is_made_with_its_parents_and_only_once() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    let made = make(&envd, home.join("a/b/c")).await.unwrap();
    assert_eq!((made.name.as_str(), kind(&made), made.mode), ("c", FileType::Directory, 0o755));
    assert_eq!(mode(&home.join("a")), 0o755);
    fs::write(home.join("file"), "x").unwrap();
    symlink("a", home.join("link")).unwrap();
    symlink("nowhere", home.join("dangling")).unwrap();
    for (path, code) in [
        ("a/b/c", ErrorCode::AlreadyExists),
        ("a/b/c/", ErrorCode::AlreadyExists),
        ("a/b/..", ErrorCode::AlreadyExists),
        ("link", ErrorCode::AlreadyExists),
        ("file", ErrorCode::InvalidArgument),
        ("dangling", ErrorCode::InvalidArgument),
        ("file/below", ErrorCode::InvalidArgument),
    ] {
        assert_eq!(make(&envd, home.join(path)).await.unwrap_err(), code, "{path}");
    }
    assert_eq!(make(&envd, "/").await.unwrap_err(), ErrorCode::AlreadyExists);
    make(&envd, home.join("link/through")).await.unwrap();
    assert!(home.join("a/through").is_dir());
    let (one, two) = futures::join!(make(&envd, home.join("r/a/c/e")), make(&envd, home.join("r/a/c/e")));
    assert!(one.is_ok() != two.is_ok() && home.join("r/a/c/e").is_dir());
}

#[tokio::test]
async fn a_move_makes_parents_and_replaces_files_only() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    fs::write(home.join("file"), "x").unwrap();
    let moved = rename(&envd, home.join("file"), home.join("new/dir/name")).await.unwrap();
    assert_eq!((moved.path, moved.size), (text(home.join("new/dir/name")), 1));
    fs::write(home.join("other"), "other").unwrap();
    rename(&envd, home.join("other"), home.join("new/dir/name")).await.unwrap();
    assert_eq!(fs::read_to_string(home.join("new/dir/name")).unwrap(), "other");
    rename(&envd, home.join("new"), home.join("moved")).await.unwrap();
    assert!(home.join("moved/dir/name").exists());
    symlink("moved", home.join("link")).unwrap();
    rename(&envd, home.join("link"), home.join("link2")).await.unwrap();
    assert!(fs::symlink_metadata(home.join("link2")).unwrap().is_symlink(), "the link, not what it leads to");
    fs::create_dir(home.join("empty")).unwrap();
    fs::write(home.join("file"), "x").unwrap();
    for (from, to, code) in [
        ("none", "made/for/nothing", ErrorCode::NotFound),
        ("file", "empty", ErrorCode::InvalidArgument),
        ("empty", "moved", ErrorCode::FailedPrecondition),
        ("moved", "moved/dir/into-itself", ErrorCode::InvalidArgument),
        ("moved", "file", ErrorCode::InvalidArgument),
        ("/", "x", ErrorCode::InvalidArgument),
    ] {
        let (from, to) = (home.join(from), home.join(to));
        assert_eq!(rename(&envd, &from, &to).await.unwrap_err(), code, "{from:?} {to:?}");
    }
    assert!(!home.join("made").exists());
}

#[tokio::test]
async fn a_removal_takes_the_tree_and_nothing_beside_it() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    let (kept, tree) = (home.join("kept"), home.join("tree"));
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "kept").unwrap();
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    for n in 0..3000 {
        fs::write(tree.join(format!("a/{n}")), "").unwrap();
    }
    symlink(&kept, tree.join("link")).unwrap();
    symlink(kept.join("file"), tree.join("a/b/link")).unwrap();
    nix::unistd::mkfifo(&tree.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    remove(&envd, &tree).await.unwrap();
    assert!(!tree.exists());
    assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "kept");
    symlink(&kept, home.join("link")).unwrap();
    remove(&envd, home.join("link")).await.unwrap();
    assert_eq!(names(home), ["kept", "run"]);
    remove(&envd, kept.join("file")).await.unwrap();
    assert_eq!(remove(&envd, kept.join("file")).await.unwrap_err(), ErrorCode::NotFound);
    for path in ["/", "//", "/.", "/..", "/home/.."] {
        assert_eq!(remove(&envd, path).await.unwrap_err(), ErrorCode::InvalidArgument, "{path}");
    }
    let disk = SmallDisk::mount(&home.join("kept/mnt"), 1_000_000);
    fs::write(home.join("kept/mnt/file"), "kept").unwrap();
    for path in ["kept", "kept/mnt"] {
        assert_eq!(remove(&envd, home.join(path)).await.unwrap_err(), ErrorCode::FailedPrecondition, "{path}");
    }
    assert_eq!(fs::read_to_string(home.join("kept/mnt/file")).unwrap(), "kept");
    drop(disk);
}

#[tokio::test]
async fn a_tree_deeper_than_any_path_is_removed() {
    let envd = Envd::start().await;
    let top = envd.home.path().join("deep");
    fs::create_dir(&top).unwrap();
    let mut dir = std::os::fd::OwnedFd::from(fs::File::open(&top).unwrap());
    for _ in 0..3000 {
        nix::sys::stat::mkdirat(&dir, "d", nix::sys::stat::Mode::from_bits_truncate(0o755)).unwrap();
        let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY;
        dir = nix::fcntl::openat(&dir, "d", flags, nix::sys::stat::Mode::empty()).unwrap();
    }
    drop(dir);
    remove(&envd, &top).await.unwrap();
    assert!(!top.exists());
}

#[tokio::test]
async fn the_service_speaks_json_too() {
    let envd = Envd::start().await;
    let home = envd.home.path();
    fs::write(home.join("file"), "x").unwrap();
    let json = [("content-type", "application/json")];
    let body = format!(r#"{{"path":"{}"}}"#, home.join("file").display());
    let answer = envd.call(Method::POST, "/filesystem.Filesystem/Stat", &json, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let entry = &answer.json()["entry"];
    assert_eq!((entry["type"].as_str(), entry["size"].as_str()), (Some("FILE_TYPE_FILE"), Some("1")));
    assert!(entry["modifiedTime"].as_str().unwrap().ends_with('Z'));
    let answer = envd.call(Method::POST, "/filesystem.Filesystem/Stat", &json, r#"{"path":"/no/such"}"#).await;
    assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (404, Some("not_found")));
    assert!(answer.json()["message"].as_str().unwrap().contains("/no/such"));
    let long = format!(r#"{{"path":"{}"}}"#, "x".repeat(200_000));
    let answer = envd.call(Method::POST, "/filesystem.Filesystem/Stat", &json, long).await;
    assert_eq!(answer.json()["code"], "resource_exhausted", "{answer:?}");
}
