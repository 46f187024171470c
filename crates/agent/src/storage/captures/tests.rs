//! Captures without a VMM, on any file system.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use wrenn_linux::files;
use wrenn_vmm::Acceleration;

use super::layout::MANIFEST;
use super::prepared_copy::PIECES_MIN;
use super::*;
use crate::disk_kind::DiskKind;
use crate::storage::disks::copies::CopiedDisks;
use crate::storage::{Disk, StorageError, Store};

fn compatibility(version: &str) -> Compatibility {
    let (vmm, vmm_version) = ("qemu".into(), version.into());
    Compatibility { vmm, vmm_version, acceleration: Acceleration::Software, cpu: "c".into() }
}

fn store(home: &Path) -> Store {
    Store::with_disks(home, home, Arc::new(CopiedDisks)).unwrap()
}

fn manifest(draft: &Draft, disk: &Disk) -> Manifest {
    Manifest {
        format: FORMAT,
        compatibility: compatibility("1"),
        template: "minimal".into(),
        image: "v".into(),
        kernel: "k".into(),
        vcpus: 1,
        memory_mib: 1,
        disks: vec![disk.record()],
        state: draft.digest_state(&["config".to_owned(), "devices".to_owned()]).unwrap(),
        memory: draft.digest_memory().unwrap(),
        boot_id: "b".into(),
        default_user: String::new(),
        default_workdir: String::new(),
        default_env: BTreeMap::new(),
        token: "t".into(),
        used: vec![(4096, 4096)],
        metadata: BTreeMap::new(),
        created_at_ms: 0,
    }
}

/// A capture whose memory has one page of data, and whose device state is two files.
fn sample(store: &Store) -> Capture {
    let path = store.root().join("one");
    let image = store.root().join("image");
    fs::write(&image, [1u8; 8192]).unwrap();
    let disk = store.disks_of(DiskKind::Reflink).create(&image, &store.making_dir(), 8192).unwrap();
    let draft = Draft::begin(store, &path).unwrap();
    fs::write(draft.state_dir().join("devices"), [7u8; 5000]).unwrap();
    fs::write(draft.state_dir().join("config"), [7u8; 50]).unwrap();
    let mut memory = vec![0u8; 1 << 20];
    memory[4096..8192].fill(9);
    fs::write(draft.memory(), &memory).unwrap();
    draft.capture_disks(std::slice::from_ref(&disk))().unwrap();
    draft.seal(&manifest(&draft, &disk)).unwrap();
    assert!(!path.exists(), "it must not count before it is committed");
    draft.commit().unwrap()
}

/// Makes a capture what version 0.1.0 would have written: its one state file beside the others, and a manifest of format 1.
fn rewrite_as_format_1(capture: &Capture) {
    let dir = capture.path();
    fs::rename(dir.join("state/devices"), dir.join("devices")).unwrap();
    fs::remove_dir_all(dir.join("state")).unwrap();
    fs::rename(dir.join("devices"), dir.join("state")).unwrap();
    let mut fields: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(MANIFEST)).unwrap()).unwrap();
    fields["format"] = 1.into();
    fields["state"] = fields["state"]["devices"].take();
    fields["disk_bytes"] = fields["disks"][0]["bytes"].take();
    fields.as_object_mut().unwrap().remove("disks");
    fs::write(dir.join(MANIFEST), serde_json::to_vec(&fields).unwrap()).unwrap();
}

#[test]
fn what_is_torn_or_foreign_is_refused_with_its_reason() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let capture = sample(&store);
    let here = compatibility("1");
    capture.check(&here, "b").unwrap();
    let foreign = capture.check(&compatibility("2"), "b").unwrap_err().to_string();
    assert!(foreign.contains("VMM version was 1 and is 2"), "{foreign}");
    let other = Compatibility { vmm: "cloud-hypervisor".into(), ..here.clone() };
    let foreign = capture.check(&other, "b").unwrap_err().to_string();
    assert!(foreign.contains("VMM was qemu and is cloud-hypervisor"), "{foreign}");
    // Memory changed without changing its size: seen after the host was started anew.
    let file = File::options().write(true).open(capture.memory()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[3], 5000).unwrap();
    capture.check(&here, "b").unwrap();
    assert!(matches!(capture.check(&here, "another boot"), Err(StorageError::Damaged(_))));
    // Every file of the state counts.
    for name in ["devices", "config"] {
        let path = capture.state().dir.join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, vec![8u8; good.len()]).unwrap();
        assert!(matches!(capture.check(&here, "b"), Err(StorageError::Damaged(found)) if found == path), "{name}");
        fs::write(&path, &good[1..]).unwrap();
        assert!(Capture::open(&store, &capture.dir).is_err(), "{name}");
        fs::write(&path, good).unwrap();
        Capture::open(&store, &capture.dir).unwrap();
    }
    store.release_disks(&capture.dir).unwrap();
    assert!(Capture::open(&store, &capture.dir).is_err());
    fs::remove_file(capture.dir.join(MANIFEST)).unwrap();
    assert!(Capture::open(&store, &capture.dir).is_err());
}

#[test]
fn a_memory_file_of_another_length_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let capture = sample(&store);
    File::options().write(true).open(capture.memory()).unwrap().set_len(4096).unwrap();
    assert!(Capture::open(&store, &capture.dir).is_err());
}

#[test]
fn a_linked_capture_outlives_the_one_it_was_linked_from() {
    for old in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path());
        let mut capture = sample(&store);
        if old {
            rewrite_as_format_1(&capture);
            capture = Capture::open(&store, &capture.dir).unwrap();
        }
        let child = capture.link_to(&home.path().join("child")).unwrap();
        discard(&store, &capture.dir).unwrap();
        assert!(!capture.dir.exists());
        child.check(&compatibility("1"), "another boot").unwrap();
        let sandbox = store.making_dir();
        let disks = child.give(&sandbox.join("memory"), &sandbox).unwrap();
        assert_eq!((disks[0].bytes(), fs::read(disks[0].path()).unwrap()[0]), (8192, 1));
    }
}

#[test]
fn a_capture_of_format_1_is_read_and_its_one_state_file_is_its_drivers() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let capture = sample(&store);
    rewrite_as_format_1(&capture);
    let capture = Capture::open(&store, &capture.dir).unwrap();
    capture.check(&compatibility("1"), "another boot").unwrap();
    let state = capture.state().only_file().unwrap();
    assert_eq!((state.clone(), fs::read(state).unwrap()), (capture.dir.join("state"), vec![7; 5000]));
    let used = capture.bytes_used().unwrap();
    assert!(used >= 8192 + 5000, "{used}");
}

#[test]
fn memory_in_too_many_pieces_is_copied_into_few() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = store(home.path());
    let making = store.making_dir();
    let base = making.join("base");
    let file = File::create_new(&base).unwrap();
    // Written from its end: no block lies behind the one before it.
    for number in (0..=PIECES_MIN).rev() {
        file.write_all_at(&[number as u8 | 1; 4096], number * 8192).unwrap();
    }
    file.sync_all().unwrap();
    assert!(u64::from(files::pieces(&file).unwrap()) > PIECES_MIN);
    let length = file.metadata().unwrap().len();
    drop(PreparedCopy::make(&base, || Ok(length)).unwrap());
    let copy = PreparedCopy::make(&base, || Ok(length)).unwrap();
    assert_eq!(fs::read_dir(&making).unwrap().count(), 1, "it has no name, taken or not");
    let draft = Draft::begin(&store, &home.path().join("copy")).unwrap();
    draft.begin_memory(&copy).unwrap();
    assert!(fs::read(draft.memory()).unwrap() == fs::read(&base).unwrap());
    assert_eq!(draft.memory().metadata().unwrap().blocks(), file.metadata().unwrap().blocks(), "holes stay holes");
    // Without the room for it, it is shared, which not every file system can.
    let shared = Draft::begin(&store, &home.path().join("shared")).unwrap();
    match PreparedCopy::make(&base, || Ok(length - 1)).and_then(|copy| shared.begin_memory(&copy)) {
        Ok(()) => {}
        Err(StorageError::File { act, .. }) => assert_eq!(act, "share"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let path = store.making_dir().join("x");
    drop(Draft::begin(&store, &path).unwrap());
    assert_eq!(fs::read_dir(store.making_dir()).unwrap().count(), 0);
}
