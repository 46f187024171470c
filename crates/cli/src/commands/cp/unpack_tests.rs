//! Tests of unpacking: what a hostile or unlucky capsule sends.

use super::*;

fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().unwrap()
}

fn entry(builder: &mut tar::Builder<Vec<u8>>, raw_name: &str, kind: tar::EntryType, link: Option<&str>, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    if let Some(link) = link {
        header.set_link_name_literal(link).unwrap();
    }
    // Written by hand: the library itself refuses to build hostile names.
    let name = &mut header.as_old_mut().name;
    name[..raw_name.len()].copy_from_slice(raw_name.as_bytes());
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

fn unpacked(bytes: impl Read, target: &Path) -> anyhow::Result<Report> {
    unpack(bytes, target, &Output::new(true))
}

#[test]
fn a_hostile_archive_writes_nothing_outside_its_folder() {
    use tar::EntryType::{Directory, Regular, Symlink};
    let home = tempfile::tempdir().unwrap();
    let outside = home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    for (name, bytes) in [
        ("climb", archive(|b| entry(b, "../outside/x", Regular, None, b"1"))),
        ("climb with a folder", archive(|b| entry(b, "../outside/x", Directory, None, b""))),
        ("absolute", archive(|b| entry(b, "/outside-abs-x", Regular, None, b"1"))),
        (
            "through a link",
            archive(|b| {
                entry(b, "l", Symlink, Some("../../outside"), b"");
                entry(b, "l/x", Regular, None, b"1");
            }),
        ),
        (
            "a folder through a link",
            archive(|b| {
                entry(b, "l", Symlink, Some("../../outside"), b"");
                entry(b, "l/x", Directory, None, b"");
            }),
        ),
    ] {
        let target = home.path().join("target").join(name);
        assert!(unpacked(bytes.as_slice(), &target).is_err(), "{name} was unpacked");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{name} wrote outside");
    }
    assert!(!Path::new("/outside-abs-x").exists());
}

#[test]
fn a_folder_that_becomes_a_link_does_not_lead_its_mode_outside() {
    let home = tempfile::tempdir().unwrap();
    let outside = home.path().join("outside");
    std::fs::DirBuilder::new().mode(0o700).create(&outside).unwrap();
    let bytes = archive(|b| {
        entry(b, "d", tar::EntryType::Directory, None, b"");
        entry(b, "d", tar::EntryType::Symlink, Some("../outside"), b"");
    });
    let _ = unpacked(bytes.as_slice(), &home.path().join("target"));
    assert_eq!(outside.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn the_stream_is_read_to_its_end_and_devices_are_left_out() {
    let home = tempfile::tempdir().unwrap();
    let mut bytes = archive(|b| {
        entry(b, "pipe", tar::EntryType::Fifo, None, b"");
        entry(b, "null", tar::EntryType::Char, None, b"");
        entry(b, "file", tar::EntryType::Regular, None, b"content");
    });
    // tar fills its last record with zeros: the reader that stops at the archive's end breaks the writer's pipe.
    bytes.resize(bytes.len() + 10 * 1024, 0);
    let mut from = bytes.as_slice();
    let report = unpacked(&mut from, &home.path().join("t")).unwrap();
    assert!(from.is_empty(), "{} bytes were left in the pipe", from.len());
    assert_eq!((report.bytes, report.notes.len(), report.has_failures()), (7, 2, false));
    assert_eq!(std::fs::read_dir(home.path().join("t")).unwrap().count(), 1);
}

#[test]
fn an_entry_that_cannot_be_made_is_named_and_the_rest_arrives() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("t");
    std::fs::create_dir_all(target.join("taken/by-a-folder")).unwrap();
    let bytes = archive(|b| {
        entry(b, "taken", tar::EntryType::Regular, None, b"1");
        entry(b, "z", tar::EntryType::Regular, None, b"22");
    });
    let report = unpacked(bytes.as_slice(), &target).unwrap();
    assert_eq!((report.failed.len(), report.bytes), (1, 2), "{report:?}");
    assert_eq!(std::fs::read_to_string(target.join("z")).unwrap(), "22");
    let cut = &bytes[..bytes.len() - 1500];
    assert!(unpacked(cut, &home.path().join("u")).is_err(), "half an archive is no copy");
}
