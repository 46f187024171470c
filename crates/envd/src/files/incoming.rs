//! An upload's body on its way in, unpacked.
//!
//! A packed body may unpack to any size; the bound is the disk, as for any other upload, and memory holds one piece.

use std::io;

use async_compression::tokio::bufread::GzipDecoder;
use axum::body::{Body, BodyDataStream};
use axum::http::HeaderMap;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_util::io::StreamReader;
use wrenn_domain::limits::UPLOAD_SILENCE_MAX;

use super::encodings::{self, Encoding};
use crate::http::Reply;

/// Bytes unpacked in one turn.
const PIECE: usize = 64 * 1024;

/// See the module.
pub struct Incoming {
    source: Source,
}

enum Source {
    Plain(BodyDataStream),
    Gzip(Box<GzipDecoder<StreamReader<Frames, Bytes>>>),
    /// The body broke, or cannot be unpacked.
    Spent,
}

/// Why no more of a body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client went away, or the connection broke.
    #[error("the upload broke off")]
    Broken,
    #[error("the upload sent nothing for too long")]
    Silent,
    #[error("the body is not gzip")]
    BadGzip,
    /// A part of a multipart body has a head without an end.
    #[error("a part's head is too long")]
    LongHead,
}

impl Incoming {
    /// Begins to read a body.
    ///
    /// # Errors
    /// 400 for packings we do not know.
    pub fn new(headers: &HeaderMap, body: Body) -> Result<Self, Reply> {
        let body = body.into_data_stream();
        let source = match encodings::of_upload(headers)? {
            Encoding::Identity => Source::Plain(body),
            Encoding::Gzip => {
                let mut decoder = GzipDecoder::new(StreamReader::new(Frames(body)));
                // Files made by appending one gzip file to another are legal, and `gzip -d` reads them whole.
                decoder.multiple_members(true);
                Source::Gzip(Box::new(decoder))
            }
        };
        Ok(Self { source })
    }

    /// The next piece, never empty; none after the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        let piece = match timeout(UPLOAD_SILENCE_MAX, self.source.next()).await {
            Ok(piece) => piece?,
            Err(_) => Err(BodyError::Silent),
        };
        if piece.is_err() {
            self.source = Source::Spent;
        }
        Some(piece)
    }
}

impl Source {
    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        match self {
            Self::Plain(body) => loop {
                match body.next().await? {
                    Ok(chunk) if chunk.is_empty() => {}
                    other => return Some(other.map_err(|_| BodyError::Broken)),
                }
            },
            Self::Gzip(decoder) => {
                let mut piece = BytesMut::with_capacity(PIECE);
                match decoder.read_buf(&mut piece).await {
                    Ok(0) => None,
                    Ok(_) => Some(Ok(piece.freeze())),
                    Err(error) if is_broken(&error) => Some(Err(BodyError::Broken)),
                    Err(_) => Some(Err(BodyError::BadGzip)),
                }
            }
            Self::Spent => None,
        }
    }
}

/// A body whose errors can be told from the decoder's.
struct Frames(BodyDataStream);

impl futures::Stream for Frames {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx).map_err(|_| io::Error::other(BodyError::Broken))
    }
}

fn is_broken(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<BodyError>())
}
