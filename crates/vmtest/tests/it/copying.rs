//! Files and folders both ways.

use anyhow::ensure;
use sha2::{Digest, Sha256};
use wrenn_vmtest::Stack;

use crate::Case;

pub const CASES: &[Case] = &[
    ("copying::a_large_file_survives_the_way_in_and_out", large_file),
    ("copying::a_folder_survives_with_its_links_and_modes", folder),
    ("copying::what_is_missing_or_full_is_a_clear_error", errors),
];

fn large_file(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let dir = stack.scratch("large")?;
    let bytes: Vec<u8> = (0..24 * 1024 * 1024u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(dir.join("in"), &bytes)?;
    let (source, target) = (dir.join("in").display().to_string(), format!("{id}:new/dir/file"));
    stack.wrenn(&["cp", &source, &target])?.ok()?;
    let sum = stack.exec(&id, &["sha256sum", "/home/wrenn-user/new/dir/file"])?;
    ensure!(sum.starts_with(&hex::encode(Sha256::digest(&bytes))), "{sum}");
    let owner = stack.exec(&id, &["stat", "-c", "%U", "new/dir/file", "new"])?;
    ensure!(owner == "wrenn-user\nwrenn-user", "{owner}");
    let back = dir.join("out").display().to_string();
    stack.wrenn(&["cp", &target, &back])?.ok()?;
    ensure!(std::fs::read(&back)? == bytes);
    stack.remove(&id)
}

fn folder(stack: &Stack) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let id = stack.capsule(&[])?;
    let dir = stack.scratch("folder")?;
    let from = dir.join("project");
    std::fs::create_dir_all(from.join("src/deep"))?;
    for i in 0..200 {
        std::fs::write(from.join(format!("src/deep/file {i}")), format!("content {i}"))?;
    }
    std::fs::write(from.join("run.sh"), "#!/bin/sh\necho ran\n")?;
    std::fs::set_permissions(from.join("run.sh"), std::fs::Permissions::from_mode(0o755))?;
    std::os::unix::fs::symlink("run.sh", from.join("link"))?;
    stack.wrenn(&["cp", &from.display().to_string(), &format!("{id}:.")])?.ok()?;
    ensure!(stack.exec(&id, &["project/link"])? == "ran");
    ensure!(stack.exec(&id, &["cat", "project/src/deep/file 199"])? == "content 199");
    let back = dir.join("back");
    stack.wrenn(&["cp", &format!("{id}:project"), &back.display().to_string()])?.ok()?;
    ensure!(std::fs::read_to_string(back.join("src/deep/file 7"))? == "content 7");
    ensure!(std::fs::read_link(back.join("link"))?.to_string_lossy() == "run.sh");
    ensure!(back.join("run.sh").metadata()?.permissions().mode() & 0o111 != 0);
    stack.remove(&id)
}

fn errors(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let dir = stack.scratch("errors")?;
    let missing = stack.wrenn(&["cp", &format!("{id}:/no/such/file"), &dir.join("x").display().to_string()])?;
    ensure!(missing.code == Some(1) && missing.stderr.contains("/no/such/file"), "{missing:?}");
    ensure!(std::fs::read_dir(&dir)?.count() == 0, "a half-made file was left");
    let absent = stack.wrenn(&["cp", "/no/such/thing", &format!("{id}:x")])?;
    ensure!(absent.code == Some(1) && absent.stderr.contains("/no/such/thing"), "{absent:?}");
    // A file system of 1 MiB in the guest: the upload must say that the disk is full and leave nothing.
    stack.exec(&id, &["sudo", "sh", "-c", "mkdir -p /small && mount -t tmpfs -o size=1m,mode=777 none /small"])?;
    let big = dir.join("big");
    std::fs::write(&big, vec![1u8; 4 * 1024 * 1024])?;
    let full = stack.wrenn(&["--json", "cp", &big.display().to_string(), &format!("{id}:/small/big")])?;
    ensure!(full.code == Some(1) && full.stderr.contains("disk_full"), "{full:?}");
    ensure!(stack.exec(&id, &["ls", "-A", "/small"])?.is_empty(), "a half-made upload was left");
    stack.remove(&id)
}
