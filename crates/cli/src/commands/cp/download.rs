//! Out of a capsule onto this machine.

use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{Receiver, channel};
use tokio_util::io::{StreamReader, SyncIoBridge};
use wrenn_contract::rest::files::{FileKind, FilePath};

use super::remote::{Ended, Found, Remote, follow};
use super::report::Report;
use super::target::Target;
use super::unpack;
use crate::api::{ApiError, ExecStream};
use crate::output::{Output, plain};

/// Chunks of a tar stream under way between its two ends.
const QUEUE: usize = 16;
/// Exit code of tar when some files changed while it read them, all others being whole.
const TAR_CHANGED: i32 = 1;
/// Exit code of tar when some files could not be read, all others being whole.
const TAR_INCOMPLETE: i32 = 2;

/// Copies a file or folder. An existing folder here receives it below itself.
///
/// # Errors
/// Nothing is there, or the copy is not whole.
pub async fn run(from: Remote<'_>, to: &Path, output: &Output) -> anyhow::Result<Report> {
    let found = there(&from).await?;
    let name = from.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let into = to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/");
    let to = if into && !matches!(name, "" | "." | ".." | "~") { to.join(name) } else { to.to_owned() };
    if found.kind == FileKind::Directory {
        return folder(&from, &to, output).await;
    }
    let mut source = Source::open(&from).await?;
    let bar = output.transfer(&plain(&from.path), source.size);
    let mut target = Target::begin(&to)?;
    let file = target.take_file().context("the target was opened twice")?;
    let mut file = tokio::fs::File::from_std(file);
    while let Some(chunk) = source.next().await? {
        bar.inc(chunk.len() as u64);
        file.write_all(&chunk).await.with_context(|| format!("cannot write {}", to.display()))?;
    }
    file.flush().await.with_context(|| format!("cannot write {}", to.display()))?;
    drop(file);
    target.commit(found.mode, found.modified)?;
    let report = Report { bytes: bar.position(), ..Report::default() };
    bar.finish_and_clear();
    Ok(report)
}

/// Copies a file to standard output.
///
/// # Errors
/// It is a folder, cannot be read, or standard output cannot be written.
pub async fn stdout(from: Remote<'_>) -> anyhow::Result<u8> {
    if there(&from).await?.kind == FileKind::Directory {
        bail!("{} is a folder; name a target folder", plain(&from.path));
    }
    let mut source = Source::open(&from).await?;
    let mut out = tokio::io::stdout();
    while let Some(chunk) = source.next().await? {
        if let Some(code) = crate::output::write(&mut out, &chunk).await? {
            return Ok(code);
        }
    }
    Ok(0)
}

async fn there(from: &Remote<'_>) -> anyhow::Result<Found> {
    let found = from.inspect().await?;
    found.with_context(|| format!("{} does not exist in {}", plain(&from.path), from.id))
}

/// A file's bytes as they come: by the files API, or by a command as another user.
struct Source {
    size: Option<u64>,
    way: Way,
}

enum Way {
    Api(http_body_util::BodyDataStream<hyper::body::Incoming>),
    Command(ExecStream),
}

impl Source {
    async fn open(from: &Remote<'_>) -> anyhow::Result<Self> {
        if from.user.is_some() {
            let start = from.script("exec cat < \"$1\"", &[&from.path], false);
            let stream = ExecStream::start(from.client, &from.id, start).await?;
            return Ok(Self { size: None, way: Way::Command(stream) });
        }
        let body = FilePath { path: from.path.clone() };
        let response = from.client.post_raw(&format!("/v1/capsules/{}/files/stream/read", from.id), &body).await?;
        let length = response.headers().get("content-length").and_then(|value| value.to_str().ok());
        let size = length.and_then(|text| text.parse().ok());
        Ok(Self { size, way: Way::Api(response.into_body().into_data_stream()) })
    }

    /// The next piece; none when the other end said that this was all.
    async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        match &mut self.way {
            Way::Api(frames) => match frames.next().await.transpose() {
                Ok(chunk) => Ok(chunk),
                Err(error) => Err(ApiError::Broken { reason: error.to_string() }.into()),
            },
            Way::Command(stream) => {
                use crate::api::ExecEvent;
                let mut complaint = Vec::new();
                loop {
                    match stream.next().await? {
                        Some(ExecEvent::Stdout(bytes)) => return Ok(Some(bytes)),
                        Some(ExecEvent::Stderr(bytes)) if complaint.len() < 4096 => complaint.extend_from_slice(&bytes),
                        Some(ExecEvent::Stderr(_) | ExecEvent::Started { .. }) => {}
                        Some(ExecEvent::Exit(0)) => return Ok(None),
                        Some(ExecEvent::Exit(code)) => {
                            bail!("exit code {code}: {}", plain(String::from_utf8_lossy(&complaint).trim()))
                        }
                        Some(ExecEvent::Error(text)) => bail!("{}", plain(&text)),
                        None => bail!(ApiError::Broken { reason: "the stream ended without an exit code".into() }),
                    }
                }
            }
        }
    }
}

async fn folder(from: &Remote<'_>, target: &Path, output: &Output) -> anyhow::Result<Report> {
    let bar = output.transfer(&plain(&from.path), None);
    let start = from.script("exec tar -c -f - -C \"$1\" .", &[&from.path], false);
    let mut stream = ExecStream::start(from.client, &from.id, start).await?;
    let (sender, chunks) = channel::<Bytes>(QUEUE);
    let (into, handle, out) = (target.to_owned(), tokio::runtime::Handle::current(), *output);
    let reader = StreamReader::new(as_stream(chunks));
    let unpacker =
        tokio::task::spawn_blocking(move || unpack::unpack(SyncIoBridge::new_with_handle(reader, handle), &into, &out));
    let counted = bar.clone();
    let followed = follow(&mut stream, async |bytes| {
        counted.inc(bytes.len() as u64);
        sender.send(bytes).await.ok().context("unpacking stopped")
    })
    .await;
    drop(sender);
    // The unpacker's complaint (full disk here, odd entry) explains whatever came after it, so it comes first; but a command that failed
    // explains an archive without an end.
    let unpacked = unpacker.await.context("the unpacker ended in a panic")?;
    let ended = match (followed, &unpacked) {
        (Ok(ended), _) => ended,
        (Err(_), Err(_)) => return unpacked,
        (Err(error), Ok(_)) => return Err(error.context(format!("could not read {}", plain(&from.path)))),
    };
    bar.finish_and_clear();
    judge(&ended, unpacked, output).with_context(|| format!("could not read {}", plain(&from.path)))
}

/// Judges the copy by tar's exit code and messages.
fn judge(ended: &Ended, unpacked: anyhow::Result<Report>, output: &Output) -> anyhow::Result<Report> {
    let Ended { exit_code, complaint } = ended;
    let mut report = match unpacked {
        Ok(report) => report,
        Err(_) if *exit_code != 0 && !complaint.is_empty() => bail!("{complaint}"),
        Err(error) => return Err(error),
    };
    let lines = complaint.lines().map(|line| line.trim_start_matches("tar: "));
    let lines = lines.filter(|line| !line.starts_with("Exiting with failure status"));
    match *exit_code {
        0 | TAR_CHANGED => lines.for_each(|line| report.note(output, line)),
        TAR_INCOMPLETE => lines.for_each(|line| report.fail(output, line)),
        code => bail!("exit code {code}: {complaint}"),
    }
    Ok(report)
}

fn as_stream(chunks: Receiver<Bytes>) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + Unpin {
    Box::pin(futures::stream::unfold(chunks, |mut chunks| async move {
        chunks.recv().await.map(|chunk| (Ok(chunk), chunks))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tars_exit_code_tells_what_changed_from_what_is_missing() {
        let output = Output::new(true);
        let judged = |exit_code, complaint: &str, unpacked| {
            judge(&Ended { exit_code, complaint: complaint.into() }, unpacked, &output)
        };
        let whole = || Ok(Report { bytes: 1, ..Report::default() });
        let grew = judged(1, "tar: ./a: file changed as we read it", whole()).unwrap();
        assert_eq!(
            (grew.notes.as_slice(), grew.has_failures()),
            (&["./a: file changed as we read it".to_owned()][..], false)
        );
        let unread = judged(
            2,
            "tar: ./b: Cannot open: Permission denied\ntar: Exiting with failure status due to previous errors",
            whole(),
        );
        assert_eq!(unread.unwrap().failed, ["./b: Cannot open: Permission denied"]);
        assert!(judged(127, "sh: tar: not found", whole()).is_err());
        let broken = judged(2, "tar: /x: Cannot open: No such file", Err(anyhow::anyhow!("not a tar stream")));
        assert!(broken.unwrap_err().to_string().contains("No such file"));
        assert!(judged(0, "", Err(anyhow::anyhow!("disk full"))).unwrap_err().to_string().contains("disk full"));
    }
}
