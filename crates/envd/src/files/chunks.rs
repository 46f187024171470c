//! A file as a stream of chunks, read on blocking threads. While one chunk is on its way to the client the next is
//! being read.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};
use wrenn_domain::limits::FILE_CHUNK_BYTES;

/// How much is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Exactly so many bytes; a file that ends before is an error, because they were promised.
    Bytes(u64),
    /// Whatever there is: files of /proc do not know their size.
    ToEnd,
}

/// Reads the next chunk, at most [`FILE_CHUNK_BYTES`]. Shorter only at the end. Blocking.
///
/// # Errors
/// The file system's.
pub fn read_chunk(mut file: &File, left: Left) -> io::Result<Bytes> {
    let want = match left {
        Left::Bytes(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX).min(FILE_CHUNK_BYTES),
        Left::ToEnd => FILE_CHUNK_BYTES,
    };
    let mut buffer = vec![0; want];
    let mut got = 0;
    while got < want {
        match file.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(got);
    Ok(Bytes::from(buffer))
}

impl Left {
    /// After a chunk; `None` when that was all.
    ///
    /// # Errors
    /// The file is shorter than it was when its size was promised.
    pub fn after(self, chunk: &Bytes) -> io::Result<Option<Self>> {
        match self {
            Self::ToEnd => Ok((chunk.len() == FILE_CHUNK_BYTES).then_some(Self::ToEnd)),
            Self::Bytes(bytes) => {
                let got = chunk.len() as u64;
                if got < bytes && got < FILE_CHUNK_BYTES as u64 {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "the file became shorter"));
                }
                Ok(Some(bytes - got).filter(|left| *left > 0).map(Self::Bytes))
            }
        }
    }
}

/// Sends `first`, which was read already, and then the rest. Holds `place` until the end.
pub fn stream(
    file: File,
    first: Bytes,
    left: Option<Left>,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let state = State { file: Arc::new(file), first: Some(first), next: None, left, _permit: permit };
    stream::try_unfold(state, |mut state| async move {
        if let Some(first) = state.first.take() {
            state.read_ahead();
            return Ok(Some((first, state)));
        }
        let (Some(next), Some(left)) = (state.next.take(), state.left) else { return Ok(None) };
        let chunk = next.await.map_err(io::Error::other)??;
        state.left = left.after(&chunk)?;
        state.read_ahead();
        Ok(Some((chunk, state)))
    })
}

struct State {
    file: Arc<File>,
    first: Option<Bytes>,
    next: Option<JoinHandle<io::Result<Bytes>>>,
    left: Option<Left>,
    _permit: OwnedSemaphorePermit,
}

impl State {
    fn read_ahead(&mut self) {
        self.next = self.left.map(|left| {
            let file = Arc::clone(&self.file);
            spawn_blocking(move || read_chunk(&file, left))
        });
    }
}
