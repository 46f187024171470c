//! Several files in one request. All take their names after the last one is whole, so a request that is refused or
//! breaks off has changed nothing.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use multer::Multipart;
use wrenn_contract::guest::WrittenFile;
use wrenn_domain::limits::{UPLOAD_FILES_MAX, UPLOAD_PART_HEAD_BYTES_MAX};

use super::incoming::{BodyError, Incoming};
use super::upload::{Begun, UploadError, Writer};
use crate::disk::{Asker, Attributes, DiskError, begin, go_on, shown};

/// Name of the parts that are files; others are passed over.
const FILE_PART: &str = "file";

/// Writes every part named `file` to `path`, or to its own file name where the query named none.
///
/// # Errors
/// See [`super::upload::raw`]; also a form that cannot be read, no file, two files of one path, or too many.
pub async fn parts(
    asker: Asker,
    path: Option<String>,
    attributes: Attributes,
    boundary: String,
    incoming: &mut Incoming,
) -> Result<Vec<WrittenFile>, UploadError> {
    let progress = Progress::new(false);
    let mut form = Multipart::new(paced(incoming, &progress), boundary);
    let (mut whole, mut taken) = (Vec::new(), HashSet::new());
    while let Some(mut part) = form.next_field().await.map_err(unreadable)? {
        progress.store(true, Ordering::Relaxed);
        if part.name() != Some(FILE_PART) {
            while part.chunk().await.map_err(unreadable)?.is_some() {
                progress.store(true, Ordering::Relaxed);
            }
            continue;
        }
        let target = path.clone().or_else(|| part.file_name().map(str::to_owned));
        let target = target.ok_or_else(|| UploadError::Invalid("path is required: no query, no file name".into()))?;
        if whole.len() == UPLOAD_FILES_MAX {
            return Err(UploadError::Invalid(format!("more than {UPLOAD_FILES_MAX} files in one upload")));
        }
        let (begun, again) = start(asker.clone(), target, attributes, taken).await?;
        taken = again;
        let written = begun.written();
        let mut writer = Writer::new(&begun.actor, begun.draft);
        while let Some(chunk) = part.chunk().await.map_err(unreadable)? {
            progress.store(true, Ordering::Relaxed);
            writer.take(chunk).await?;
        }
        whole.push((begun.actor, writer.finish().await?, written));
    }
    if whole.is_empty() {
        return Err(UploadError::Invalid(format!("there is no part named {FILE_PART}")));
    }
    let mut done = Vec::with_capacity(whole.len());
    for (actor, draft, written) in whole {
        go_on(actor, move || draft.commit()).await?;
        done.push(written);
    }
    Ok(done)
}

/// Begins a draft unless its path was in the request before.
async fn start(
    asker: Asker,
    text: String,
    attributes: Attributes,
    mut taken: HashSet<PathBuf>,
) -> Result<(Begun, HashSet<PathBuf>), UploadError> {
    let begun = begin(asker, move |actor| {
        let path = actor.path(&text)?;
        if taken.contains(&path) {
            return Err(DiskError::Invalid(format!("{} is in the upload twice", shown(&path))));
        }
        let begun = Begun::new(actor, &text, attributes)?;
        taken.insert(path);
        Ok((begun, taken))
    });
    Ok(begun.await?)
}

/// Set by the reader whenever the parser handed something out.
type Progress = AtomicBool;

/// The body for the parser, which swallows all that is ready at once, asks for more before it uses what it has, and
/// keeps everything until it finds what it seeks. So it gets a piece only when it had a turn and handed nothing out,
/// one per turn, and an end when it has been given more than a part's head may have without finding its end.
fn paced<'a>(
    incoming: &'a mut Incoming,
    progress: &'a Progress,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'a {
    let pieces = stream::unfold(incoming, |incoming| async { Some((incoming.next().await?, incoming)) });
    let mut pieces = Box::pin(pieces);
    let (mut gave, mut fruitless) = (false, 0);
    stream::poll_fn(move |cx| {
        let used = progress.swap(false, Ordering::Relaxed);
        if used {
            fruitless = 0;
        }
        if std::mem::take(&mut gave) || used {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if fruitless > UPLOAD_PART_HEAD_BYTES_MAX {
            return Poll::Ready(Some(Err(BodyError::LongHead)));
        }
        let polled = pieces.poll_next_unpin(cx);
        if let Poll::Ready(Some(Ok(piece))) = &polled {
            gave = true;
            fruitless += piece.len();
        }
        polled
    })
}

fn unreadable(error: multer::Error) -> UploadError {
    match error {
        multer::Error::StreamReadFailed(source) => match source.downcast_ref::<BodyError>() {
            Some(error) => (*error).into(),
            None => UploadError::Invalid("the form cannot be read".to_owned()),
        },
        error => UploadError::Invalid(format!("the form cannot be read: {error}")),
    }
}
