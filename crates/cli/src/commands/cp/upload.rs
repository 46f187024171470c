//! From this machine into a capsule.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::channel;
use tokio_util::io::ReaderStream;
use wrenn_contract::rest::files::FileKind;

use super::pack::{self, Progress};
use super::remote::{Remote, follow};
use super::report::Report;
use crate::api::ExecStream;
use crate::output::{Output, plain};

/// Bytes read from disk at once.
const CHUNK: usize = 256 * 1024;
/// Chunks of a tar stream under way between its two ends.
const QUEUE: usize = 16;

/// Attributes a file has besides its bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    mode: Option<u32>,
    modified: Option<SystemTime>,
}

/// Copies a file or folder. An existing folder in the capsule receives it below itself.
///
/// # Errors
/// The source cannot be read or the capsule does not confirm the copy.
pub async fn run(from: &Path, to: Remote<'_>, output: &Output) -> anyhow::Result<Report> {
    let meta = std::fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
    let into = to.path.ends_with('/') || to.inspect().await?.is_some_and(|found| found.kind == FileKind::Directory);
    let to = if into { to.below(&pack::name_of(from)?) } else { to };
    if meta.is_dir() {
        return folder(from, to, output).await;
    }
    let file = tokio::fs::File::open(from).await.with_context(|| format!("cannot read {}", from.display()))?;
    if !meta.is_file() {
        return send(file, None, Attributes::default(), to, output).await;
    }
    // What is appended meanwhile is not waited for. A file of /proc has no size and is read to its end.
    let bound = if meta.len() == 0 { u64::MAX } else { meta.len() };
    let attributes = Attributes { mode: Some(pack::mode_of(&meta)), modified: meta.modified().ok() };
    let mut report = send(file.take(bound), Some(meta.len()), attributes, to, output).await?;
    if report.bytes < meta.len() {
        report.note(output, &format!("{} became shorter while it was copied", from.display()));
    } else if bound != u64::MAX && std::fs::metadata(from).is_ok_and(|now| now.len() > meta.len()) {
        report.note(output, &format!("{} grew while it was copied; its beginning was copied", from.display()));
    }
    Ok(report)
}

/// Copies standard input into a file.
///
/// # Errors
/// The target is a folder, or the capsule does not confirm the copy.
pub async fn stdin(to: Remote<'_>, output: &Output) -> anyhow::Result<Report> {
    if to.inspect().await?.is_some_and(|found| found.kind == FileKind::Directory) {
        bail!("{} is a folder; name the file that standard input becomes", plain(&to.path));
    }
    send(tokio::io::stdin(), None, Attributes::default(), to, output).await
}

/// Sends one file's bytes. What could not be read here fails the request, so that nothing is written there.
async fn send(
    source: impl AsyncRead + Send + Sync + 'static,
    size: Option<u64>,
    attributes: Attributes,
    to: Remote<'_>,
    output: &Output,
) -> anyhow::Result<Report> {
    let bar = output.transfer(&plain(&to.path), size);
    let counted = bar.clone();
    let failed = Arc::new(Mutex::new(None));
    let cause = Arc::clone(&failed);
    let bytes = ReaderStream::with_capacity(source, CHUNK)
        .inspect_ok(move |chunk| counted.inc(chunk.len() as u64))
        .inspect_err(move |error| {
            *cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        });
    let sent = match &to.user {
        None => by_form(&to, attributes, bytes).await,
        Some(_) => by_command(&to, attributes, bytes).await,
    };
    // What could not be read here is the cause of whatever the server said about the rest.
    if let Some(cause) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bail!("cannot read the source: {cause}");
    }
    sent.with_context(|| format!("could not write {}", plain(&to.path)))?;
    let report = Report { bytes: bar.position(), ..Report::default() };
    bar.finish_and_clear();
    Ok(report)
}

async fn by_form(
    to: &Remote<'_>,
    attributes: Attributes,
    bytes: impl futures::Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let boundary = boundary()?;
    let mut head = String::new();
    let mut field = |name: &str, value: &str| {
        head.push_str(&format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"));
    };
    field("path", &to.path);
    if let Some(mode) = attributes.mode {
        field("mode", &format!("{mode:o}"));
    }
    let since = attributes.modified.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    if let Some(since) = since {
        field("modified_ms", &since.as_millis().to_string());
    }
    head.push_str(&format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"upload\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    ));
    let tail = format!("\r\n--{boundary}--\r\n");
    let body = futures::stream::iter([Ok(Bytes::from(head))])
        .chain(bytes)
        .chain(futures::stream::iter([Ok(Bytes::from(tail))]));
    let kind = format!("multipart/form-data; boundary={boundary}");
    Ok(to.client.post_stream(&format!("/v1/capsules/{}/files/stream/write", to.id), &kind, body).await?)
}

/// Writes as another user: the files API acts as the default user only.
async fn by_command(
    to: &Remote<'_>,
    attributes: Attributes,
    bytes: impl futures::Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    // Private until it is whole; then it takes its name, or is copied into what may not be replaced.
    let script = "set -e; d=$(dirname -- \"$1\"); mkdir -p -- \"$d\"
        if [ -e \"$1\" ] && { [ ! -f \"$1\" ] || [ -L \"$1\" ] || [ ! -w \"$d\" ] || [ -k \"$d\" ]; }; then exec cat > \"$1\"; fi
        t=$(mktemp -- \"$d/.wrenn-new-XXXXXXXX\"); trap 'rm -f -- \"$t\"' EXIT; cat > \"$t\"
        chmod -- \"${2:-644}\" \"$t\"; mv -fT -- \"$t\" \"$1\"; trap - EXIT";
    let mode = attributes.mode.map(|mode| format!("{mode:o}")).unwrap_or_default();
    let mut stream = ExecStream::start(to.client, &to.id, to.script(script, &[&to.path, &mode], true)).await?;
    let mut input = stream.take_input().context("input taken twice")?;
    let feeder = tokio::spawn(async move {
        tokio::pin!(bytes);
        while let Some(chunk) = bytes.next().await {
            // Without an end of input the command goes on waiting, and is killed with its stream: nothing gets the name.
            let Ok(chunk) = chunk else { return };
            if input.data(chunk).await.is_err() {
                return;
            }
        }
        let _ = input.eof().await;
        std::future::pending::<()>().await;
    });
    let ended = tokio::select! {
        // The command's end first: it says why it read no more.
        biased;
        ended = follow(&mut stream, async |_| Ok(())) => ended?,
        _ = async { let _ = feeder.await; } => bail!("the copy broke off"),
    };
    if ended.exit_code != 0 {
        bail!("exit code {}: {}", ended.exit_code, ended.complaint);
    }
    Ok(())
}

fn boundary() -> anyhow::Result<String> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).context("no random numbers to be had")?;
    Ok(format!("wrenn-{}", hex::encode(random)))
}

async fn folder(from: &Path, to: Remote<'_>, output: &Output) -> anyhow::Result<Report> {
    let bar = output.transfer(&pack::name_of(from)?, Some(pack::folder_bytes(from)));
    let script = "mkdir -p -- \"$1\" && exec tar -x -p --no-same-owner -f - -C \"$1\"";
    let mut stream = ExecStream::start(to.client, &to.id, to.script(script, &[&to.path], true)).await?;
    let mut input = stream.take_input().context("input taken twice")?;
    let (sender, mut chunks) = channel::<Bytes>(QUEUE);
    let progress = Arc::new(Progress::default());
    let packer = {
        let (from, progress, output) = (from.to_owned(), Arc::clone(&progress), *output);
        tokio::task::spawn_blocking(move || pack::pack(&from, sender, &progress, &output))
    };
    let counted = bar.clone();
    let feeder = tokio::spawn(async move {
        while let Some(chunk) = chunks.recv().await {
            counted.inc(chunk.len() as u64);
            if input.data(chunk).await.is_err() {
                return;
            }
        }
        let _ = input.eof().await;
    });
    // The command's end decides: when it fails early, packer and feeder end with their closed channels.
    let done = follow(&mut stream, async |_| Ok(())).await;
    feeder.abort();
    let packed = packer.await.context("the packer ended in a panic")?;
    let ended = done.with_context(|| format!("could not unpack into {}", plain(&to.path)))?;
    if ended.exit_code != 0 {
        // The source's own trouble, if there was any, came first.
        packed.and_then(|_| bail!("could not unpack into {}: {}", plain(&to.path), ended.complaint))
    } else if progress.is_complete() {
        bar.finish_and_clear();
        // A reader that has seen the end of the archive need not read what follows it.
        Ok(progress.report())
    } else {
        packed?;
        bail!("the capsule stopped reading before it had all of {}", from.display())
    }
}
