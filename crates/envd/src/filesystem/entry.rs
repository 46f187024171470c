//! One file system entry as clients see it.
//!
//! A link is described twice: `type` and `mode` are those of what it leads to, because clients ask whether they can
//! list or read it; size, time, owner and `permissions` are the link's own, as `ls -l` shows them. A link that leads
//! nowhere has the type symlink.
//!
//! A name that is not UTF-8 is shown with U+FFFD for what is no text; the entry's path is then escaped, and names it exactly.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;

use buffa_types::google::protobuf::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use wrenn_contract::proto::filesystem::{EntryInfo, FileType};
use wrenn_linux::users::Names;

use crate::disk::{canonical, open_at, shown};

/// Describes `name` in an open directory; `path` is what it is called in the answer.
///
/// # Errors
/// The kernel's, when it cannot be looked at.
pub fn describe(dir: &impl AsFd, name: &OsStr, path: &Path, names: &Names) -> Result<EntryInfo, Errno> {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mut entry = of_stat(&stat, path, names);
    if kind(&stat) == SFlag::S_IFLNK {
        match follow(dir, name) {
            Ok((target, stat)) => {
                entry.r#type = file_type(&stat).into();
                entry.mode = stat.st_mode & 0o7777;
                entry.symlink_target = Some(target);
            }
            Err(_) => {
                entry.r#type = FileType::Symlink.into();
                entry.symlink_target = readlinkat(dir, name).ok().map(|target| shown(Path::new(&target)));
            }
        }
    }
    Ok(entry)
}

/// Describes what `stat` says, which is no link.
pub fn of_stat(stat: &FileStat, path: &Path, names: &Names) -> EntryInfo {
    EntryInfo {
        name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        r#type: file_type(stat).into(),
        path: shown(path),
        size: stat.st_size,
        mode: stat.st_mode & 0o7777,
        permissions: permissions(stat.st_mode),
        owner: names.user(stat.st_uid),
        group: names.group(stat.st_gid),
        modified_time: Timestamp {
            seconds: stat.st_mtime,
            nanos: i32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
}

/// Where a link leads in the end, and what is there.
fn follow(dir: &impl AsFd, name: &OsStr) -> Result<(String, FileStat), Errno> {
    let target = open_at(dir, name, OFlag::O_PATH)?;
    Ok((shown(&canonical(&target)?), fstat(&target)?))
}

/// The file type bits alone.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn file_type(stat: &FileStat) -> FileType {
    match kind(stat) {
        SFlag::S_IFREG => FileType::File,
        SFlag::S_IFDIR => FileType::Directory,
        SFlag::S_IFLNK => FileType::Symlink,
        // Devices, pipes and sockets have no word in the protocol.
        _ => FileType::Unspecified,
    }
}

/// `-rw-r--r--`, as `ls -l` prints it.
fn permissions(mode: u32) -> String {
    let kind = match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => 'd',
        SFlag::S_IFLNK => 'l',
        SFlag::S_IFSOCK => 's',
        SFlag::S_IFIFO => 'p',
        SFlag::S_IFCHR => 'c',
        SFlag::S_IFBLK => 'b',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, lower, upper) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => lower,
            (true, false) => upper,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_as_ls_prints_them() {
        for (mode, expected) in [
            (0o100_644, "-rw-r--r--"),
            (0o100_000, "----------"),
            (0o040_755, "drwxr-xr-x"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o120_777, "lrwxrwxrwx"),
            (0o104_755, "-rwsr-xr-x"),
            (0o106_644, "-rwSr-Sr--"),
            (0o102_755, "-rwxr-sr-x"),
            (0o140_600, "srw-------"),
            (0o010_600, "prw-------"),
            (0o020_666, "crw-rw-rw-"),
            (0o060_660, "brw-rw----"),
        ] {
            assert_eq!(permissions(mode), expected, "{mode:o}");
        }
    }
}
