//! Outputs of commands as JSON, written piece by piece: as one text they would take up to six times the memory.

use axum::Extension;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use crate::service::exec::Printed;
use crate::state::permits::AnswerBytes;

/// Bytes of output in one piece; a multiple of three, which base64 turns into whole groups.
const PIECE_BYTES: usize = 48 * 1024;

/// Answers with the fields of `head` and both streams, in an object of its own where `within` names one. The bytes that are held for
/// the output are given back when it was sent.
pub(super) fn answer(head: Map<String, Value>, within: Option<&str>, printed: Printed) -> Response {
    let Printed { stdout, stderr, held } = printed;
    let body = Body::from_stream(futures::stream::iter(
        pieces(&head, within, stdout, stderr).map(Ok::<_, std::convert::Infallible>),
    ));
    (Extension(AnswerBytes::new(held)), [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// How both streams stand in the answer.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Base64,
}

fn pieces(
    head: &Map<String, Value>,
    within: Option<&str>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
) -> impl Iterator<Item = Bytes> + Send + 'static {
    let is_text = std::str::from_utf8(&stdout).is_ok() && std::str::from_utf8(&stderr).is_ok();
    let (form, name) = if is_text { (Form::Text, "utf-8") } else { (Form::Base64, "base64") };
    let mut before = serde_json::to_string(head).unwrap_or_default();
    before.truncate(before.len().saturating_sub(1));
    before.push(',');
    let (open, close) = within.map_or_else(Default::default, |name| (format!("\"{name}\":{{"), "}"));
    let begin = format!("{before}{open}\"encoding\":\"{name}\",\"stdout\":\"");
    let end = format!("\"{close}}}");
    let one = |text: String| std::iter::once(Bytes::from(text));
    one(begin)
        .chain(Stream { bytes: stdout, at: 0, form })
        .chain(one("\",\"stderr\":\"".to_owned()))
        .chain(Stream { bytes: stderr, at: 0, form })
        .chain(one(end))
}

/// One stream of a command, encoded as it is read.
struct Stream {
    bytes: Vec<u8>,
    at: usize,
    form: Form,
}

impl Iterator for Stream {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return None;
        }
        let piece = match self.form {
            Form::Base64 => &rest[..rest.len().min(PIECE_BYTES)],
            // Never in the middle of a character: it begins where a byte is no continuation.
            Form::Text => {
                let end = (PIECE_BYTES..rest.len()).find(|end| rest[*end] & 0xc0 != 0x80);
                &rest[..end.unwrap_or(rest.len())]
            }
        };
        let text = match self.form {
            Form::Base64 => BASE64.encode(piece),
            Form::Text => {
                let quoted = serde_json::to_string(&String::from_utf8_lossy(piece)).unwrap_or_default();
                quoted[1..quoted.len() - 1].to_owned()
            }
        };
        self.at += piece.len();
        Some(Bytes::from(text))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wrenn_contract::rest::capsules::{Encoding, ExecKilled, ExecResult};

    use super::*;

    fn whole(head: Value, within: Option<&str>, stdout: &[u8], stderr: &[u8]) -> Vec<u8> {
        let head = head.as_object().expect("an object").clone();
        pieces(&head, within, stdout.to_vec(), stderr.to_vec()).flatten().collect()
    }

    #[test]
    fn any_text_is_read_back_as_it_was_printed_and_no_piece_is_large() {
        let head = json!({"sandbox_id": "a", "cmd": "\"\n", "exit_code": 0, "duration_ms": 1});
        for size in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7] {
            for letter in ["x", "ä", "😀", "\u{1}", "\"", "\\"] {
                let text = letter.repeat(size.div_ceil(letter.len()));
                let read: ExecResult =
                    serde_json::from_slice(&whole(head.clone(), None, text.as_bytes(), b"e")).expect("valid");
                assert!(
                    read.stdout == text && read.stderr == "e" && read.encoding == Encoding::Utf8,
                    "{size} {letter}"
                );
                let fields = head.as_object().expect("an object");
                let largest = pieces(fields, None, text.into_bytes(), Vec::new()).map(|piece| piece.len()).max();
                assert!(largest.is_some_and(|largest| largest <= 6 * (PIECE_BYTES + 4)), "{largest:?}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_base64_in_both_streams() {
        let bytes: Vec<u8> = (0..=255).cycle().take(2 * PIECE_BYTES + 5).collect();
        let error = json!({"error": {"code": "timeout", "message": "m", "request_id": "r"}});
        let read: ExecKilled = serde_json::from_slice(&whole(error, Some("output"), &bytes, b"text")).expect("valid");
        assert_eq!(read.output.encoding, Encoding::Base64);
        assert_eq!(BASE64.decode(read.output.stdout).expect("valid"), bytes);
        assert_eq!(BASE64.decode(read.output.stderr).expect("valid"), b"text");
    }
}
