//! `wrenn cp`: files and folders, both ways. One side is a path here, the other `ID:PATH`.
//!
//! A file travels through the files API. A folder travels as one tar stream through a command in the capsule, so that
//! thousands of small files cost one round trip; what comes out of a capsule is unpacked as hostile ([`super::cp_local`]).

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use indicatif::ProgressBar;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};
use wrenn_contract::rest::files::{FileKind, FileList, FilePath, ListFiles};

use super::cp_local;
use crate::api::{ApiError, Client, ExecEvent, ExecStart, ExecStream};
use crate::output::{Output, plain};

/// Bytes read from disk at once.
const CHUNK: usize = 256 * 1024;
/// Chunks of a tar stream under way between its two ends.
const QUEUE: usize = 16;
/// Bytes of a failed command's stderr that are shown.
const COMPLAINT_MAX: usize = 4096;

#[derive(Debug, Args)]
pub struct CpArgs {
    /// File or folder here, or ID:PATH in a capsule.
    source: String,
    /// Where to: a path here, or ID:PATH. An existing folder receives the source below it.
    destination: String,
}

enum Place {
    Here(PathBuf),
    Capsule { id: String, path: String },
}

impl Place {
    /// `cl-...:path` is in a capsule; everything else is here.
    fn parse(text: &str) -> anyhow::Result<Self> {
        match text.split_once(':') {
            Some((id, path)) if id.starts_with("cl-") => {
                let id = super::capsule_id(id).map_err(anyhow::Error::msg)?;
                let path = if path.is_empty() { "." } else { path };
                Ok(Self::Capsule { id, path: path.to_owned() })
            }
            _ => Ok(Self::Here(PathBuf::from(text))),
        }
    }
}

/// Copies.
pub async fn run(args: CpArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let bytes = match (Place::parse(&args.source)?, Place::parse(&args.destination)?) {
        (Place::Here(from), Place::Capsule { id, path }) => upload(&from, &id, &path, client, output).await?,
        (Place::Capsule { id, path }, Place::Here(to)) => download(&id, &path, &to, client, output).await?,
        (Place::Here(_), Place::Here(_)) => bail!("one side must be in a capsule: ID:PATH"),
        (Place::Capsule { .. }, Place::Capsule { .. }) => {
            bail!("one side must be here: copy to this machine first, then to the other capsule")
        }
    };
    output.result(&serde_json::json!({"bytes": bytes}), || format!("{} copied", indicatif::BinaryBytes(bytes)));
    Ok(0)
}

async fn upload(from: &Path, id: &str, path: &str, client: &Client, output: &Output) -> anyhow::Result<u64> {
    let meta = std::fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
    let name = cp_local::last_name(from)?;
    let target = match kind_of(client, id, path).await? {
        Some(FileKind::Directory) => format!("{}/{name}", path.trim_end_matches('/')),
        _ => path.to_owned(),
    };
    if meta.is_dir() {
        upload_folder(from, id, &target, client, output).await
    } else {
        upload_file(from, meta.len(), id, &target, client, output).await
    }
}

async fn upload_file(
    from: &Path,
    size: u64,
    id: &str,
    target: &str,
    client: &Client,
    output: &Output,
) -> anyhow::Result<u64> {
    let file = tokio::fs::File::open(from).await.with_context(|| format!("cannot read {}", from.display()))?;
    let bar = output.transfer(&cp_local::last_name(from)?, Some(size));
    let boundary = boundary()?;
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n{target}\r\n--{boundary}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"upload\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let counted = bar.clone();
    let body = futures::stream::iter([Ok(Bytes::from(head))])
        .chain(ReaderStream::with_capacity(file, CHUNK).inspect_ok(move |chunk| counted.inc(chunk.len() as u64)))
        .chain(futures::stream::iter([Ok(Bytes::from(tail))]));
    let kind = format!("multipart/form-data; boundary={boundary}");
    client.post_stream(&format!("/v1/capsules/{id}/files/stream/write"), &kind, body).await?;
    let sent = bar.position();
    bar.finish_and_clear();
    Ok(sent)
}

fn boundary() -> anyhow::Result<String> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).context("no random numbers to be had")?;
    Ok(format!("wrenn-{}", hex::encode(random)))
}

async fn upload_folder(from: &Path, id: &str, target: &str, client: &Client, output: &Output) -> anyhow::Result<u64> {
    let total = cp_local::folder_bytes(from)?;
    let bar = output.transfer(&cp_local::last_name(from)?, Some(total));
    let script = "mkdir -p -- \"$1\" && exec tar -x --no-same-owner -f - -C \"$1\"";
    let start = shell(script, target, true);
    let mut stream = ExecStream::start(client, id, start).await?;
    let mut input = stream.take_input().context("input taken twice")?;
    let (sender, mut chunks) = channel::<Bytes>(QUEUE);
    let source = from.to_owned();
    let packer = tokio::task::spawn_blocking(move || cp_local::pack(&source, sender));
    let counted = bar.clone();
    let feeder = tokio::spawn(async move {
        while let Some(chunk) = chunks.recv().await {
            counted.inc(chunk.len() as u64);
            input.data(chunk).await?;
        }
        input.eof().await
    });
    // The command's end decides: when it fails early, packer and feeder end with their closed channels.
    let done = finish(&mut stream, None, &bar).await;
    feeder.abort();
    let packed = packer.await.context("the packer died")?;
    done.with_context(|| format!("could not unpack into {target}"))?;
    let bytes = packed?;
    bar.finish_and_clear();
    Ok(bytes)
}

fn shell(script: &str, argument: &str, stdin: bool) -> ExecStart {
    ExecStart {
        cmd: "/bin/sh".into(),
        args: vec!["-c".into(), script.into(), "sh".into(), argument.into()],
        stdin,
        ..ExecStart::default()
    }
}

/// What a path in a capsule is; `None` when nothing is there.
async fn kind_of(client: &Client, id: &str, path: &str) -> anyhow::Result<Option<FileKind>> {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() || trimmed == "." {
        return Ok(Some(FileKind::Directory));
    }
    let (parent, name) = trimmed.rsplit_once('/').unwrap_or((".", trimmed));
    if matches!(name, "." | "..") {
        return Ok(Some(FileKind::Directory));
    }
    let parent = if parent.is_empty() { "/" } else { parent };
    let query = ListFiles { path: parent.to_owned(), depth: Some(1) };
    match client.post::<_, FileList>(&format!("/v1/capsules/{id}/files/list"), &query).await {
        Ok(list) => Ok(list.entries.into_iter().find(|e| e.name == name).map(|e| e.kind)),
        Err(error) if error.status() == Some(404) && error.code() == "not_found" => {
            // The capsule itself may be what is missing; then its own answer says so.
            client.get::<serde_json::Value>(&format!("/v1/capsules/{id}")).await?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn download(id: &str, path: &str, to: &Path, client: &Client, output: &Output) -> anyhow::Result<u64> {
    let kind = kind_of(client, id, path).await?;
    let Some(kind) = kind else { bail!("{path} does not exist in {id}") };
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let target = if to.is_dir() && !matches!(name, "" | "." | "..") { to.join(name) } else { to.to_owned() };
    if kind == FileKind::Directory {
        download_folder(id, path, &target, client, output).await
    } else {
        download_file(id, path, &target, client, output).await
    }
}

async fn download_file(id: &str, path: &str, target: &Path, client: &Client, output: &Output) -> anyhow::Result<u64> {
    let body = FilePath { path: path.to_owned() };
    let response = client.post_raw(&format!("/v1/capsules/{id}/files/stream/read"), &body).await?;
    let size =
        response.headers().get("content-length").and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    let bar = output.transfer(&plain(path), size);
    let partial = cp_local::Partial::create(target)?;
    let mut file = partial.open().await?;
    let mut frames = response.into_body().into_data_stream();
    while let Some(chunk) = frames.next().await {
        let chunk = chunk.map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        bar.inc(chunk.len() as u64);
        file.write_all(&chunk).await.with_context(|| format!("cannot write {}", target.display()))?;
    }
    file.flush().await.with_context(|| format!("cannot write {}", target.display()))?;
    drop(file);
    partial.commit()?;
    let got = bar.position();
    bar.finish_and_clear();
    Ok(got)
}

async fn download_folder(id: &str, path: &str, target: &Path, client: &Client, output: &Output) -> anyhow::Result<u64> {
    let bar = output.transfer(&plain(path), None);
    let start = shell("exec tar -c -f - -C \"$1\" .", path, false);
    let mut stream = ExecStream::start(client, id, start).await?;
    let (sender, chunks) = channel::<Bytes>(QUEUE);
    let into = target.to_owned();
    let reader = StreamReader::new(tokio_stream(chunks));
    let handle = tokio::runtime::Handle::current();
    let unpacker =
        tokio::task::spawn_blocking(move || cp_local::unpack(SyncIoBridge::new_with_handle(reader, handle), &into));
    let followed = finish(&mut stream, Some(sender), &bar).await;
    let unpacked = unpacker.await.context("the unpacker died")?;
    // The unpacker's complaint (full disk here, odd entry) explains a broken pipe, so it comes first.
    let bytes = unpacked?;
    followed.with_context(|| format!("could not read {path}"))?;
    bar.finish_and_clear();
    Ok(bytes)
}

/// Follows a command to its end, passing stdout on with backpressure; anything but exit code 0 is an error with what it
/// printed on stderr.
async fn finish(stream: &mut ExecStream, stdout: Option<Sender<Bytes>>, bar: &ProgressBar) -> anyhow::Result<()> {
    let mut complaint = String::new();
    loop {
        match stream.next().await? {
            Some(ExecEvent::Stdout(bytes)) => {
                let Some(stdout) = &stdout else { continue };
                bar.inc(bytes.len() as u64);
                if stdout.send(bytes).await.is_err() {
                    bail!("unpacking stopped");
                }
            }
            Some(ExecEvent::Stderr(bytes)) => {
                if complaint.len() < COMPLAINT_MAX {
                    complaint.push_str(&String::from_utf8_lossy(&bytes));
                }
            }
            Some(ExecEvent::Exit(0)) => return Ok(()),
            Some(ExecEvent::Exit(code)) => bail!("exit code {code}: {}", plain(complaint.trim())),
            Some(ExecEvent::Error(text)) => bail!("{}", plain(&text)),
            Some(ExecEvent::Started) => {}
            None => bail!(ApiError::Broken { reason: "the stream ended without an exit code".into() }),
        }
    }
}

fn tokio_stream(chunks: Receiver<Bytes>) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + Unpin {
    Box::pin(futures::stream::unfold(chunks, |mut chunks| async move {
        chunks.recv().await.map(|chunk| (Ok(chunk), chunks))
    }))
}
