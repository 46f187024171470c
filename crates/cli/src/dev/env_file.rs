//! `.dev/env`: what a user's tools need to reach the instance. Lines of `export KEY='VALUE'`, for shells and for files of settings alike.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// Values of WRENN_BASE_URL and WRENN_API_KEY, as far as they are set.
pub type ServerAndKey = (Option<String>, Option<String>);

/// Server and key as the environment names them. To be read before [`load`].
pub fn of_environment() -> ServerAndKey {
    let var = |name: &str| std::env::var(name).ok();
    (var(BASE_URL), var(API_KEY))
}

/// Server and key as `.env` and `.dev/env` of the working directory name them, each file for itself.
pub fn of_files() -> [ServerAndKey; 2] {
    [".env", ".dev/env"].map(|file| {
        let file = Path::new(file);
        (read(file, BASE_URL), read(file, API_KEY))
    })
}

/// Takes other settings from `.env` of the working directory, where the environment does not set them: `wrenn dev` starts programs with them.
pub fn load() {
    // A missing or unreadable file leaves the environment as it is; the command then says what it lacks.
    let _ = dotenvy::from_path(Path::new(".env"));
}

const BASE_URL: &str = "WRENN_BASE_URL";
const API_KEY: &str = "WRENN_API_KEY";

/// The value of `key` in the file, if both are there.
pub fn read(file: &Path, key: &str) -> Option<String> {
    let items = dotenvy::from_path_iter(file).ok()?;
    items.flatten().find(|(name, _)| name == key).map(|(_, value)| value)
}

/// Replaces the file, readable by its owner only, in one step.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, items: &[(&str, &str)]) -> anyhow::Result<()> {
    let text: String =
        items.iter().map(|(key, value)| format!("export {key}='{}'\n", value.replace('\'', "'\\''"))).collect();
    let fresh = file.with_extension("new");
    let written = (|| {
        let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        give_to_caller(&fresh)?;
        std::fs::rename(&fresh, file)
    })();
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// Under sudo the file belongs to who called it, or they could not read their own key.
fn give_to_caller(file: &Path) -> std::io::Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    match (number("SUDO_UID"), number("SUDO_GID")) {
        (Some(uid), Some(gid)) => std::os::unix::fs::chown(file, Some(uid), Some(gid)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        write(
            &file,
            &[("WRENN_BASE_URL", "http://127.0.0.1:8000"), ("WRENN_API_KEY", "wrn_00"), ("A_FOLDER", "/my files/$x")],
        )
        .unwrap();
        assert_eq!(read(&file, "A_FOLDER").as_deref(), Some("/my files/$x"));
        let shell = std::process::Command::new("/bin/sh")
            .args(["-c", ". \"$1\"; /bin/sh -c 'echo \"$A_FOLDER $WRENN_API_KEY\"'", "sh"])
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&shell.stdout), "/my files/$x wrn_00\n", "programs of that shell see them");
        assert_eq!(read(&file, "WRENN_API_KEY").as_deref(), Some("wrn_00"));
        assert_eq!(read(&file, "OTHER"), None);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
