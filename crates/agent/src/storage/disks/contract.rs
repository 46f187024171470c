//! Contract of every implementation, as one test that any of them can be given.

use std::path::Path;

use super::interface::{Disk, Disks};

/// Walks one disk through its life in a store at `home`, which holds an image of 8 KiB of ones.
pub fn holds(disks: &dyn Disks, home: &Path, image: &Path) {
    let dirs = ["making", "sandbox", "capture", "linked", "child"].map(|name| home.join(name));
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let [making, sandbox, capture, linked, child] = dirs;
    assert_eq!(disks.adopt(&making).unwrap(), None);
    disks.release(&making).unwrap();
    let disk = disks.create(image, &making, 16384).unwrap();
    assert_eq!(disk.bytes(), 16384);
    // An interrupted try is no obstacle.
    assert_eq!(disks.create(image, &making, 16384).unwrap(), disk);
    let disk = disks.hand_over(&disk, &sandbox).unwrap();
    assert_eq!((disks.adopt(&making).unwrap(), disks.adopt(&sandbox).unwrap()), (None, Some(disk.clone())));
    let content = |disk: &Disk| std::fs::read(disk.path()).unwrap();
    assert!(
        content(&disk)[..8192].iter().all(|byte| *byte == 1) && content(&disk)[8192..].iter().all(|byte| *byte == 0)
    );
    disks.capture(&disk, &capture).unwrap();
    disks.sync(&capture).unwrap();
    assert!(disks.capture(&disk, &capture).is_err(), "a capture is never written twice");
    // Growing never shrinks, and what changes now is not in the capture.
    assert_eq!(disks.grow(&disk, 4096).unwrap().bytes(), 16384);
    let disk = disks.grow(&disk, 32768).unwrap();
    assert_eq!(disks.adopt(&sandbox).unwrap(), Some(disk.clone()));
    let file = std::fs::File::options().write(true).open(disk.path()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[2; 8192], 0).unwrap();
    assert!(disks.used(&disk).unwrap() >= 8192);
    disks.share(&capture, &linked).unwrap();
    disks.release(&capture).unwrap();
    assert_eq!(disks.adopt(&capture).unwrap(), None);
    let started = disks.start_from(&linked, &child).unwrap();
    assert_eq!((started.bytes(), content(&started)[0]), (16384, 1));
    assert_eq!(disks.start_from(&linked, &child).unwrap(), started, "an interrupted try is no obstacle");
    std::fs::write(started.path(), [3; 16384]).unwrap();
    assert_eq!(content(&disks.adopt(&linked).unwrap().unwrap())[0], 1, "a capture never changes");
    for dir in [&sandbox, &linked, &child] {
        disks.release(dir).unwrap();
        assert_eq!(disks.adopt(dir).unwrap(), None);
    }
    assert!(disks.start_from(&capture, &child).is_err());
}
