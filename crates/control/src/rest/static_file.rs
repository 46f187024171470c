//! Files that are the same for everybody: answered with an entity tag, not at all to who has them, and compressed to who takes that.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

/// A file with its compressed form.
pub(super) struct StaticFile {
    kind: HeaderValue,
    cache: HeaderValue,
    tag: HeaderValue,
    plain: Bytes,
    /// None: it would be no smaller.
    gzip: Option<Bytes>,
}

impl StaticFile {
    /// Prepares a file of this media type. `cache` is what Cache-Control says of it.
    pub(super) async fn new(kind: &str, cache: &'static str, bytes: Bytes) -> Self {
        let digest = hex::encode(&Sha256::digest(&bytes)[..16]);
        let gzip = compressed(&bytes).await.filter(|gzip| gzip.len() < bytes.len());
        Self {
            kind: HeaderValue::from_str(kind).unwrap_or(HeaderValue::from_static("application/octet-stream")),
            cache: HeaderValue::from_static(cache),
            tag: HeaderValue::from_str(&format!("\"{digest}\"")).expect("hex digits in quotes are a header value"),
            plain: bytes,
            gzip: gzip.map(Bytes::from),
        }
    }

    /// Answers a request with these headers. A client that has the file gets 304 and no body.
    pub(super) fn answer(&self, request: &HeaderMap) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, self.cache.clone());
        headers.insert(ETAG, self.tag.clone());
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        if has_it(request, &self.tag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.insert(CONTENT_TYPE, self.kind.clone());
        match &self.gzip {
            Some(gzip) if takes_gzip(request) => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                (headers, gzip.clone()).into_response()
            }
            _ => (headers, self.plain.clone()).into_response(),
        }
    }
}

async fn compressed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = async_compression::tokio::write::GzipEncoder::new(Vec::new());
    encoder.write_all(bytes).await.ok()?;
    encoder.shutdown().await.ok()?;
    Some(encoder.into_inner())
}

/// Whether If-None-Match names the tag. Weak tags count as well: RFC 9110, section 13.1.2.
fn has_it(request: &HeaderMap, tag: &HeaderValue) -> bool {
    let lines = request.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|named| named == "*" || named.strip_prefix("W/").unwrap_or(named).as_bytes() == tag.as_bytes())
}

/// Whether Accept-Encoding names gzip and does not forbid it.
fn takes_gzip(request: &HeaderMap) -> bool {
    let lines = request.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map(str::parse::<f32>);
        named && !matches!(quality, Some(Ok(0.0) | Err(_)))
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn asked(file: &StaticFile, headers: &[(&'static str, &str)]) -> (u16, HeaderMap, Bytes) {
        let mut request = HeaderMap::new();
        for (name, value) in headers {
            request.append(*name, value.parse().expect("a value"));
        }
        let (parts, body) = file.answer(&request).into_parts();
        (parts.status.as_u16(), parts.headers, body.collect().await.expect("whole").to_bytes())
    }

    #[tokio::test]
    async fn who_has_a_file_gets_it_not_again_and_who_takes_gzip_gets_it_smaller() {
        let text = "wrenn ".repeat(1000);
        let file = StaticFile::new("text/plain", "no-cache", Bytes::from(text.clone())).await;
        let (status, headers, body) = asked(&file, &[]).await;
        assert_eq!((status, &body[..]), (200, text.as_bytes()));
        let tag = headers["etag"].to_str().expect("text").to_owned();
        for same in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let (status, headers, body) = asked(&file, &[("if-none-match", &same)]).await;
            assert_eq!((status, body.len(), headers["etag"].to_str().expect("text")), (304, 0, tag.as_str()), "{same}");
        }
        assert_eq!(asked(&file, &[("if-none-match", "\"other\"")]).await.0, 200);
        let (_, headers, body) = asked(&file, &[("accept-encoding", "br, gzip;q=0.5")]).await;
        assert_eq!(headers["content-encoding"], "gzip");
        assert!(body.len() < text.len() / 10 && body.starts_with(&[0x1f, 0x8b]));
        for none in ["br", "gzip;q=0", "gzip;q=x", ""] {
            assert!(!asked(&file, &[("accept-encoding", none)]).await.1.contains_key("content-encoding"), "{none}");
        }
    }
}
