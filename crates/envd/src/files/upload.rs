//! From a body to files: drafts fed on blocking threads while more is being received.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use wrenn_contract::guest::WrittenFile;
use wrenn_domain::limits::FILE_CHUNK_BYTES;

use super::incoming::{BodyError, Incoming};
use crate::disk::{Actor, Asker, Attributes, DiskError, Draft, begin, go_on, job, outcome, shown};
use crate::http::Reply;

/// Pieces of one write: the kernel takes up to 1024, and pieces may be small.
const PIECES_MAX: usize = 256;

/// Why an upload made nothing.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl From<UploadError> for Reply {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Disk(error) => error.into(),
            other => Reply::bad_request(other.to_string()),
        }
    }
}

/// Writes the whole body to one file.
///
/// # Errors
/// The file cannot be written or the body broke off; what was there before stays.
pub async fn raw(
    asker: Asker,
    path: String,
    attributes: Attributes,
    incoming: &mut Incoming,
) -> Result<Vec<WrittenFile>, UploadError> {
    let begun = begin(asker, move |actor| Begun::new(actor, &path, attributes)).await?;
    let written = begun.written();
    let mut writer = Writer::new(&begun.actor, begun.draft);
    while let Some(piece) = incoming.next().await {
        writer.take(piece?).await?;
    }
    let draft = writer.finish().await?;
    go_on(begun.actor, move || draft.commit()).await?;
    Ok(vec![written])
}

/// A draft with what is said about it.
pub(super) struct Begun {
    pub actor: Arc<Actor>,
    pub path: PathBuf,
    pub draft: Draft,
}

impl Begun {
    /// Call with the actor's rights.
    ///
    /// # Errors
    /// The path is malformed, or nothing may be written there.
    pub fn new(actor: &Arc<Actor>, text: &str, attributes: Attributes) -> Result<Self, DiskError> {
        let path = actor.path(text)?;
        if text.ends_with('/') {
            return Err(DiskError::IsDirectory(text.to_owned()));
        }
        let draft = Draft::begin(actor, &path, attributes)?;
        Ok(Self { actor: Arc::clone(actor), path, draft })
    }

    pub fn written(&self) -> WrittenFile {
        WrittenFile {
            path: shown(&self.path),
            name: self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            kind: "file".to_owned(),
        }
    }
}

/// Gathers pieces and writes them in one go, one write ahead of the receiving side.
pub(super) struct Writer {
    actor: Arc<Actor>,
    state: State,
    pieces: Vec<Bytes>,
    bytes: usize,
}

enum State {
    Idle(Draft),
    Writing(JoinHandle<Result<Draft, DiskError>>),
    /// A write failed.
    Failed,
}

impl Writer {
    pub fn new(actor: &Arc<Actor>, draft: Draft) -> Self {
        Self { actor: Arc::clone(actor), state: State::Idle(draft), pieces: Vec::new(), bytes: 0 }
    }

    /// Takes a piece; waits while more than one write is outstanding.
    ///
    /// # Errors
    /// An earlier piece could not be written.
    pub async fn take(&mut self, piece: Bytes) -> Result<(), DiskError> {
        self.bytes += piece.len();
        self.pieces.push(piece);
        if self.bytes < FILE_CHUNK_BYTES && self.pieces.len() < PIECES_MAX {
            return Ok(());
        }
        self.write().await
    }

    /// Writes what is left and gives the draft back.
    ///
    /// # Errors
    /// A piece could not be written.
    pub async fn finish(mut self) -> Result<Draft, DiskError> {
        if !self.pieces.is_empty() {
            self.write().await?;
        }
        self.draft().await
    }

    async fn write(&mut self) -> Result<(), DiskError> {
        let mut draft = self.draft().await?;
        let pieces = std::mem::take(&mut self.pieces);
        self.bytes = 0;
        self.state = State::Writing(job(Arc::clone(&self.actor), move || draft.write(&pieces).map(|()| draft)));
        Ok(())
    }

    async fn draft(&mut self) -> Result<Draft, DiskError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(draft) => Ok(draft),
            State::Writing(write) => outcome(write).await,
            State::Failed => Err(DiskError::Internal("a write after one that failed")),
        }
    }
}
