//! Who file work is done for: a user of the guest, with his home, and his rights while the work runs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinHandle;
use wrenn_domain::names::GuestPath;
use wrenn_domain::path_escape;
use wrenn_linux::as_user;
use wrenn_linux::users::User;

use super::error::DiskError;

/// The user who asks, not resolved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// Name of the user to act as.
    pub user: String,
    /// Where relative paths begin; the user's home when absent.
    pub workdir: Option<String>,
}

/// A user who was looked up.
#[derive(Debug)]
pub struct Actor {
    user: User,
    home: PathBuf,
    base: PathBuf,
}

/// Looks the asker up and runs `work` with his rights on a blocking thread.
///
/// # Errors
/// Those of `work`, an unknown user, or rights that could not be taken.
pub async fn begin<T: Send + 'static>(
    asker: Asker,
    work: impl FnOnce(&Arc<Actor>) -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    outcome(tokio::task::spawn_blocking(move || {
        let actor = Arc::new(Actor::find(&asker)?);
        actor.act(|| work(&actor))
    }))
    .await
}

/// Runs `work` with the rights of someone looked up before.
///
/// # Errors
/// Those of `work`, or rights that could not be taken.
pub async fn go_on<T: Send + 'static>(
    actor: Arc<Actor>,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    outcome(job(actor, work)).await
}

/// Begins work without waiting: it runs to its end whether or not anybody takes its [`outcome`].
pub fn job<T: Send + 'static>(
    actor: Arc<Actor>,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> JoinHandle<Result<T, DiskError>> {
    tokio::task::spawn_blocking(move || actor.act(work))
}

/// Waits for a [`job`].
///
/// # Errors
/// Those of its work, or rights that could not be taken.
pub async fn outcome<T>(job: JoinHandle<Result<T, DiskError>>) -> Result<T, DiskError> {
    job.await.map_err(|error| {
        tracing::error!(%error, "file work ended in a panic");
        DiskError::Internal("file work ended in a panic")
    })?
}

impl Actor {
    #[cfg(test)]
    pub(super) fn root() -> Result<Self, DiskError> {
        Self::find(&Asker { user: "root".to_owned(), workdir: None })
    }

    fn find(asker: &Asker) -> Result<Self, DiskError> {
        let user = User::find(&asker.user)
            .map_err(DiskError::std("read the users in", Path::new("/etc")))?
            .ok_or_else(|| DiskError::NoUser(asker.user.clone()))?;
        let home = Path::new("/").join(&user.home);
        let base = asker.workdir.as_deref().map_or_else(|| home.clone(), |workdir| expand(workdir, &home, &home));
        Ok(Self { user, home, base })
    }

    /// Resolves the path that `text` names for this user: absolute, without `.` and double slashes. `~` and `~/...` are his home, other
    /// relative paths begin in the default working directory, or in his home where there is none. `~name` is a file's
    /// name like any other. `..` stays for the kernel: only it knows where a linked directory's parent is.
    ///
    /// A path that is not UTF-8 is escaped: see [`path_escape`].
    ///
    /// # Errors
    /// Empty, too long, with a NUL, or escaped wrongly.
    pub fn path(&self, text: &str) -> Result<PathBuf, DiskError> {
        let path: GuestPath = text.parse()?;
        Ok(match path_escape::unescape(path.as_str())? {
            Some(bytes) => Path::new(OsStr::from_bytes(&bytes)).components().collect(),
            None => expand(path.as_str(), &self.home, &self.base),
        })
    }

    /// Runs `work` on this thread with the user's rights.
    pub(super) fn act<T>(&self, work: impl FnOnce() -> Result<T, DiskError>) -> Result<T, DiskError> {
        as_user::as_user(&self.user, work).map_err(|error| {
            tracing::warn!(%error, source = %error.source, "cannot act as another user");
            DiskError::Io {
                act: "act as user",
                path: self.user.name.clone(),
                source: nix::errno::Errno::from_raw(error.errno().unwrap_or_default()),
            }
        })?
    }
}

fn expand(text: &str, home: &Path, base: &Path) -> PathBuf {
    let (from, rest) = match text.strip_prefix('~') {
        Some("") => (home, ""),
        Some(rest) if rest.starts_with('/') => (home, rest),
        _ if text.starts_with('/') => (Path::new("/"), text),
        _ => (base, text),
    };
    let parts = rest.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.fold(from.to_owned(), |path, part| path.join(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_where_a_user_expects() {
        let (home, base) = (Path::new("/home/me"), Path::new("/work"));
        for (text, expected) in [
            ("/etc//passwd", "/etc/passwd"),
            ("/", "/"),
            ("//./", "/"),
            (".", "/work"),
            ("./a/./b/", "/work/a/b"),
            ("a", "/work/a"),
            ("~", "/home/me"),
            ("~/", "/home/me"),
            ("~/.ssh", "/home/me/.ssh"),
            ("~you", "/work/~you"),
            ("~you/x", "/work/~you/x"),
            ("a/~", "/work/a/~"),
            ("../x", "/work/../x"),
            ("/a/../b", "/a/../b"),
        ] {
            assert_eq!(expand(text, home, base), Path::new(expected), "{text}");
        }
    }
}
