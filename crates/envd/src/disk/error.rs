//! Why work on files was refused or failed. Becomes HTTP only in `http/reply.rs` and RPC only in `filesystem/`.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::SFlag;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::path_escape;

/// See the module. Texts are for the user.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The user to act as is unknown.
    #[error("there is no user {0:?} in this sandbox")]
    NoUser(String),
    #[error("{0} is a directory")]
    IsDirectory(String),
    #[error("{0} is not a directory")]
    NotDirectory(String),
    /// A device, pipe or socket.
    #[error("{path} is {kind}, not a regular file")]
    NotRegular { path: String, kind: &'static str },
    #[error("{0} already exists")]
    Exists(String),
    /// A listing or watch that would be too large.
    #[error("{path} has more than {max} {what}")]
    TooMany { path: String, what: &'static str, max: usize },
    /// Something changed it, or holds it, at the same time.
    #[error("{0}")]
    Conflict(String),
    /// All places for such work are taken.
    #[error("too many file calls at once; try again")]
    Busy,
    /// The kernel's refusal or failure.
    #[error("could not {act} {path}")]
    Io {
        act: &'static str,
        path: String,
        #[source]
        source: Errno,
    },
    /// A fault of ours.
    #[error("{0}")]
    Internal(&'static str),
}

impl DiskError {
    /// Makes the failure of `act` on `path` out of the kernel's answer.
    pub fn io<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(Errno) -> Self + use<'a> {
        move |source| Self::Io { act, path: shown(path), source }
    }

    /// Makes an error of the standard library one of a file.
    pub fn std<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |error| Self::io(act, path)(errno(&error))
    }

    /// Makes the refusal of something that is neither file nor directory, by its mode.
    pub fn not_regular(path: &Path, mode: u32) -> Self {
        Self::NotRegular { path: shown(path), kind: kind_in_words(mode) }
    }

    /// The kind of failure that outsiders see.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Invalid(_) | Self::NoUser(_) => FailureKind::Invalid,
            Self::IsDirectory(_) | Self::NotDirectory(_) | Self::NotRegular { .. } => FailureKind::Invalid,
            Self::Exists(_) => FailureKind::AlreadyExists,
            Self::TooMany { .. } => FailureKind::TooLarge,
            Self::Conflict(_) => FailureKind::Conflict,
            Self::Busy => FailureKind::Unavailable,
            Self::Io { source, .. } => kind_of(*source),
            Self::Internal(_) => FailureKind::Internal,
        }
    }

    /// The whole story in one line, for the user.
    pub fn message(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {}", source.desc()),
            other => other.to_string(),
        }
    }
}

impl From<Failure> for DiskError {
    /// Takes over the refusal of a value that does not parse.
    fn from(failure: Failure) -> Self {
        Self::Invalid(failure.message)
    }
}

/// Name of a special file's kind, with its article.
fn kind_in_words(mode: u32) -> &'static str {
    match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFIFO => "a named pipe",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFCHR => "a character device",
        SFlag::S_IFBLK => "a block device",
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFDIR => "a directory",
        _ => "a special file",
    }
}

/// Writes a path as clients see it and may send it back: one that is not UTF-8 is escaped.
pub fn shown(path: &Path) -> String {
    path_escape::escape(path.as_os_str().as_bytes()).into_owned()
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn kind_of(errno: Errno) -> FailureKind {
    match errno {
        Errno::ENOENT => FailureKind::NotFound,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => FailureKind::Forbidden,
        Errno::ENOSPC | Errno::EDQUOT => FailureKind::DiskFull,
        Errno::EFBIG => FailureKind::TooLarge,
        Errno::EEXIST => FailureKind::AlreadyExists,
        Errno::ENOTDIR | Errno::EISDIR | Errno::ELOOP | Errno::ENAMETOOLONG | Errno::EINVAL | Errno::ENXIO => {
            FailureKind::Invalid
        }
        Errno::ENOTEMPTY | Errno::EBUSY | Errno::ETXTBSY | Errno::EXDEV => FailureKind::Conflict,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => FailureKind::Unavailable,
        // Whatever else a file system may say (EIO above all) is the machine's trouble, not the caller's.
        _ => FailureKind::Internal,
    }
}
