//! Tests of packing: folders that change while they are read.

use super::*;
use std::os::unix::fs::PermissionsExt;

/// Packs a folder; `meanwhile` runs after the first chunk was taken.
fn packed(root: &Path, meanwhile: impl FnOnce()) -> (Vec<u8>, Report) {
    let (sender, mut chunks) = tokio::sync::mpsc::channel(1);
    let progress = std::sync::Arc::new(Progress::default());
    let packer = std::thread::spawn({
        let (root, progress) = (root.to_owned(), std::sync::Arc::clone(&progress));
        move || pack(&root, sender, &progress, &Output::new(true))
    });
    let mut bytes = chunks.blocking_recv().map(Vec::from).unwrap_or_default();
    meanwhile();
    while let Some(chunk) = chunks.blocking_recv() {
        bytes.extend_from_slice(&chunk);
    }
    packer.join().unwrap().unwrap();
    assert!(progress.is_complete());
    (bytes, progress.report())
}

fn names(bytes: &[u8]) -> Vec<(String, u64)> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), entry.size())
    });
    entries.collect()
}

/// Large enough that the packer waits for the channel in the middle of it.
const LARGE: u64 = 4 << 20;

#[test]
fn a_file_that_grows_is_cut_and_one_that_shrinks_is_filled_and_the_rest_arrives() {
    for (change, word) in [(2 * LARGE, "grew"), (LARGE / 2, "shorter")] {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("a");
        std::fs::write(&file, vec![7; usize::try_from(LARGE).unwrap()]).unwrap();
        std::fs::write(home.path().join("z"), "after it").unwrap();
        let (bytes, report) =
            packed(home.path(), || File::options().write(true).open(&file).unwrap().set_len(change).unwrap());
        assert_eq!(
            names(&bytes),
            [(".".to_owned(), 0), ("a".to_owned(), LARGE), ("z".to_owned(), 8)].map(|(n, s)| (n, s))
        );
        assert!(report.notes[0].contains(word) && !report.has_failures(), "{report:?}");
    }
}

#[test]
fn what_vanishes_is_named_and_what_cannot_be_sent_is_left_out() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("a"), vec![7; usize::try_from(LARGE).unwrap()]).unwrap();
    std::fs::write(home.path().join("gone"), "x").unwrap();
    nix::unistd::mkfifo(&home.path().join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(home.path().join("socket")).unwrap();
    std::fs::write(home.path().join("z"), "last").unwrap();
    let (bytes, report) = packed(home.path(), || std::fs::remove_file(home.path().join("gone")).unwrap());
    let names: Vec<_> = names(&bytes).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [".", "a", "z"]);
    for word in ["vanished", "named pipe", "socket"] {
        assert!(report.notes.iter().any(|note| note.contains(word)), "{word}: {report:?}");
    }
    assert!(!report.has_failures());
}

#[test]
fn long_names_and_names_that_are_no_text_are_sent_as_they_are() {
    use std::os::unix::ffi::OsStrExt;
    let home = tempfile::tempdir().unwrap();
    let deep = home.path().join("d".repeat(200)).join("e".repeat(200));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("f".repeat(255)), "x").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), home.path().join("link")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd-\xff");
    std::fs::write(home.path().join(odd), "y").unwrap();
    let (bytes, report) = packed(home.path(), || {});
    assert!(report.failed.is_empty() && report.notes.is_empty(), "{report:?}");
    let into = tempfile::tempdir().unwrap();
    super::super::unpack::unpack(bytes.as_slice(), into.path(), &Output::new(true)).unwrap();
    let deep = into.path().join("d".repeat(200)).join("e".repeat(200)).join("f".repeat(255));
    assert_eq!(std::fs::read_to_string(deep).unwrap(), "x");
    assert_eq!(std::fs::read_link(into.path().join("link")).unwrap().as_os_str().len(), 300);
    assert_eq!(std::fs::read_to_string(into.path().join(odd)).unwrap(), "y");
}

#[test]
fn modes_and_times_survive_also_of_folders_that_may_not_be_written() {
    let home = tempfile::tempdir().unwrap();
    let from = home.path().join("from");
    std::fs::create_dir_all(from.join("closed")).unwrap();
    std::fs::write(from.join("closed/private"), "x").unwrap();
    let set =
        |path: &str, mode| std::fs::set_permissions(from.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    set("closed/private", 0o4600);
    set("closed", 0o555);
    let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    File::open(from.join("closed")).unwrap().set_times(std::fs::FileTimes::new().set_modified(past)).unwrap();
    let (bytes, _) = packed(&from, || {});
    let to = home.path().join("to");
    super::super::unpack::unpack(bytes.as_slice(), &to, &Output::new(true)).unwrap();
    let mode = |path: &str| to.join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("closed"), mode("closed/private")), (0o555, 0o600));
    assert_eq!(to.join("closed").metadata().unwrap().modified().unwrap(), past);
    for dir in [&from, &to] {
        std::fs::set_permissions(dir.join("closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_name_is_the_one_that_was_typed() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("real"), "x").unwrap();
    std::os::unix::fs::symlink("real", home.path().join("typed")).unwrap();
    assert_eq!(name_of(&home.path().join("typed")).unwrap(), "typed");
    let own = home.path().canonicalize().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(name_of(&home.path().join(".")).unwrap(), own);
    assert!(name_of(Path::new("/")).is_err());
}
