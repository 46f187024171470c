//! Paths of a guest that are not UTF-8, as text: a `file:` URL whose odd bytes are percent-encoded.
//!
//! Linux names are bytes, and JSON and protobuf carry text. A path that is text is written as it is. Any other is written as
//! `file:///tmp/caf%E9`: the form RFC 8089 gives to absolute paths, which people can type and no shell changes. Wherever a path is read, this
//! form is understood, also for bytes that needed no escape. A relative path that really begins with `file:///` is written `./file:///`.

use std::borrow::Cow;

use crate::failure::Failure;

/// Beginning of an escaped path; the slash after it begins the path itself.
const SCHEME: &str = "file://";

/// Writes an absolute path as text: as it is where it is UTF-8, else escaped. Of a relative one, bytes that are no text become U+FFFD.
pub fn escape(path: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(path) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) if path.first() != Some(&b'/') => String::from_utf8_lossy(path),
        Err(_) => {
            let mut text = String::with_capacity(SCHEME.len() + 2 * path.len());
            text.push_str(SCHEME);
            for byte in path {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                        text.push(char::from(*byte));
                    }
                    _ => text.push_str(&format!("%{byte:02X}")),
                }
            }
            Cow::Owned(text)
        }
    }
}

/// Reads the bytes of an escaped path; none for a path that is not escaped.
///
/// # Errors
/// A percent sign without two hex digits, or an escaped NUL.
pub fn unescape(text: &str) -> Result<Option<Vec<u8>>, Failure> {
    let Some(escaped) = text.strip_prefix(SCHEME).filter(|rest| rest.starts_with('/')) else { return Ok(None) };
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(16 * high + low).ok()) {
            Some(byte) if byte != 0 => bytes.push(byte),
            _ => {
                return Err(Failure::invalid(
                    "in a path that begins with file:/// a percent sign begins an escaped byte, as in %E9; write %25 for itself",
                ));
            }
        }
        rest = after.get(2..).unwrap_or_default();
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_absolute_path_comes_back_as_the_same_bytes() {
        let all: Vec<u8> = std::iter::once(b'/').chain(1..=255).collect();
        for path in [&b"/tmp/caf\xe9"[..], b"/\xff%41/a b", b"/\x80/../x", &all] {
            let text = escape(path);
            assert_eq!(unescape(&text).unwrap().as_deref(), Some(path), "{text}");
        }
        assert_eq!(escape(b"/tmp/caf\xe9"), "file:///tmp/caf%E9");
    }

    #[test]
    fn text_stays_as_it_is_and_is_not_taken_for_an_escape() {
        for path in ["/tmp/100%", "/a\u{fffd}b", "relative", "file:/x", "file:x", "./file:///x", "file://host/x"] {
            assert_eq!(escape(path.as_bytes()), path);
            assert_eq!(unescape(path).unwrap(), None, "{path}");
        }
        assert_eq!(unescape("file:///a%20b%2f").unwrap().as_deref(), Some(&b"/a b/"[..]));
        for bad in ["file:///%", "file:///%4", "file:///%zz", "file:///%00", "file:///%+1"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }
}
