//! A path in a capsule: what is there, and the commands that copy to and from it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use wrenn_contract::rest::capsules::{Exec, ExecResult};
use wrenn_contract::rest::files::{FileKind, FileList, ListFiles};
use wrenn_domain::ErrorCode;

use crate::api::{ApiError, Client, ExecEvent, ExecStart, ExecStream};
use crate::output::plain;

/// Bytes of a failed command's stderr that are shown.
const COMPLAINT_MAX: usize = 4096;

/// A path in a capsule, and the user to act as.
pub struct Remote<'a> {
    pub client: &'a Client,
    pub id: String,
    pub path: String,
    pub user: Option<String>,
}

/// A file or folder found at a path, a link followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Time of the last change.
    pub modified: Option<SystemTime>,
}

/// How a followed command ended.
#[derive(Debug)]
pub struct Ended {
    pub exit_code: i32,
    /// The beginning of what it printed on stderr.
    pub complaint: String,
}

impl Remote<'_> {
    /// Looks what is there; `None` when nothing is.
    ///
    /// # Errors
    /// The capsule does not answer or refuses.
    pub async fn inspect(&self) -> anyhow::Result<Option<Found>> {
        let trimmed = self.path.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or((".", trimmed));
        if self.user.is_some() || matches!(name, "" | "." | ".." | "~") {
            return self.inspect_by_command().await;
        }
        let parent = if parent.is_empty() { "/" } else { parent };
        let query = ListFiles { path: parent.to_owned(), depth: Some(1) };
        match self.client.post::<_, FileList>(&format!("/v1/capsules/{}/files/list", self.id), &query).await {
            Ok(list) => Ok(list.entries.into_iter().find(|entry| entry.name == name).map(|entry| Found {
                kind: entry.kind,
                mode: entry.mode & 0o777,
                modified: u64::try_from(entry.modified_at).ok().map(since_epoch),
            })),
            Err(error) if error.status() == Some(404) && error.code() == ErrorCode::NotFound.as_str() => {
                // The capsule itself may be what is missing; then its own answer says so.
                self.client.get::<serde_json::Value>(&format!("/v1/capsules/{}", self.id)).await?;
                Ok(None)
            }
            // A folder with too many entries, one that may be entered but not listed, or one that is no folder.
            Err(error) if matches!(error.status(), Some(400 | 403 | 413)) => self.inspect_by_command().await,
            Err(error) => Err(error.into()),
        }
    }

    async fn inspect_by_command(&self) -> anyhow::Result<Option<Found>> {
        let script = "if [ -e \"$1\" ] || [ -L \"$1\" ]; then stat -L -c '%f %Y' -- \"$1\"; fi";
        let args = ["-c", script, "sh", &self.path].map(str::to_owned).to_vec();
        let exec = Exec { cmd: "/bin/sh".into(), args, user: self.user.clone(), ..Exec::default() };
        let result: ExecResult = self.client.post(&format!("/v1/capsules/{}/exec", self.id), &exec).await?;
        if result.exit_code != 0 {
            bail!("cannot look at {}: {}", plain(&self.path), plain(result.stderr.trim()));
        }
        parse_stat(result.stdout.trim())
    }

    /// A script of the capsule's shell, to be run as the user; `$1` is `argument`.
    pub fn script(&self, script: &str, arguments: &[&str], stdin: bool) -> ExecStart {
        let fixed = ["-c", script, "sh"];
        ExecStart {
            cmd: "/bin/sh".into(),
            args: fixed.iter().chain(arguments).map(|text| (*text).to_owned()).collect(),
            // Messages are read here.
            envs: BTreeMap::from([("LC_ALL".to_owned(), "C".to_owned())]),
            user: self.user.clone(),
            stdin,
            ..ExecStart::default()
        }
    }

    /// Extends the path by one name.
    pub fn below(mut self, name: &str) -> Self {
        self.path = format!("{}/{name}", self.path.trim_end_matches('/'));
        self
    }
}

fn parse_stat(text: &str) -> anyhow::Result<Option<Found>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text
        .split_once(' ')
        .and_then(|(mode, seconds)| Some((u32::from_str_radix(mode, 16).ok()?, seconds.parse::<i64>().ok()?)));
    let (mode, seconds) = parsed.with_context(|| format!("the capsule's stat printed {:?}", plain(text)))?;
    let kind = if mode & 0o170_000 == 0o040_000 { FileKind::Directory } else { FileKind::File };
    Ok(Some(Found { kind, mode: mode & 0o777, modified: u64::try_from(seconds).ok().map(since_epoch) }))
}

fn since_epoch(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Follows a command to its end. `take` gets its stdout and may refuse more, which ends nothing: the command's end decides.
///
/// # Errors
/// The command could not be run or followed.
pub async fn follow(
    stream: &mut ExecStream,
    mut take: impl AsyncFnMut(bytes::Bytes) -> anyhow::Result<()>,
) -> anyhow::Result<Ended> {
    let mut complaint = Vec::new();
    loop {
        match stream.next().await? {
            Some(ExecEvent::Stdout(bytes)) => take(bytes).await?,
            Some(ExecEvent::Stderr(bytes)) => {
                let room = COMPLAINT_MAX.saturating_sub(complaint.len());
                complaint.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Some(ExecEvent::Exit(exit_code)) => {
                let complaint = plain(String::from_utf8_lossy(&complaint).trim());
                return Ok(Ended { exit_code, complaint });
            }
            Some(ExecEvent::Error(text)) => bail!("{}", plain(&text)),
            Some(ExecEvent::Started { .. }) => {}
            None => bail!(ApiError::Broken { reason: "the stream ended without an exit code".into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stat_prints_is_parsed_or_refused() {
        let found = parse_stat("81a4 1700000000").unwrap().unwrap();
        assert_eq!((found.kind, found.mode), (FileKind::File, 0o644));
        assert_eq!(parse_stat("41ed 0").unwrap().unwrap().kind, FileKind::Directory);
        assert_eq!(parse_stat("").unwrap(), None);
        for bad in ["81a4", "x 1", "81a4 x"] {
            assert!(parse_stat(bad).is_err(), "{bad}");
        }
    }
}
