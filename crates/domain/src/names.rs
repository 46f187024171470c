//! Names that become file names, rows or guest arguments.

use std::str::FromStr;

use crate::failure::Failure;
use crate::limits::{GUEST_PATH_BYTES_MAX, PROCESS_TAG_BYTES_MAX};
use crate::path_escape;
use crate::text_type::text_type;

/// `[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}`: safe as a file name and in a URL; cannot be `.` or `..`.
pub fn is_safe_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 64
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

text_type!(
    /// Name of a template.
    TemplateName
);
text_type!(
    /// Path inside a guest: not empty, no NUL, at most 4096 bytes. Relative ones are below the user's home.
    /// `..` is allowed: the guest is its user's own machine, and envd resolves it there. One that is not UTF-8 is escaped: see
    /// [`crate::path_escape`].
    GuestPath
);
text_type!(
    /// Name of a background process, at most 128 bytes. Not all digits, so that it is never taken for a pid.
    ProcessTag
);

impl FromStr for TemplateName {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        if is_safe_name(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Failure::invalid(
            "a template name has 1 to 64 letters, digits, dots, underscores and dashes, and begins with a letter or digit",
        ))
    }
}

impl FromStr for GuestPath {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Err(Failure::invalid("path is required"));
        }
        if text.len() > GUEST_PATH_BYTES_MAX {
            return Err(Failure::invalid(format!("path is longer than {GUEST_PATH_BYTES_MAX} bytes")));
        }
        if text.contains('\0') {
            return Err(Failure::invalid("path contains a NUL character"));
        }
        path_escape::unescape(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for ProcessTag {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        let number = text.bytes().all(|b| b.is_ascii_digit());
        if text.is_empty() || text.len() > PROCESS_TAG_BYTES_MAX || !printable || number {
            return Err(Failure::invalid(
                "a process tag has 1 to 128 printable ASCII characters without blanks, and is not a number",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_names_that_climb_or_hide_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "a\n", "é", &"a".repeat(65)] {
            assert!(bad.parse::<TemplateName>().is_err(), "{bad:?} was accepted");
        }
        for good in ["minimal", "a", "code-runner-beta", "v1.2_x", &"a".repeat(64)] {
            assert!(good.parse::<TemplateName>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn paths_and_tags_keep_their_bounds() {
        for bad in ["", "a\0b", "file:///%zz", &"a".repeat(4097)] {
            assert!(bad.parse::<GuestPath>().is_err());
        }
        for bad in ["", "123", "a b", "a\u{7f}", &"a".repeat(129)] {
            assert!(bad.parse::<ProcessTag>().is_err(), "{bad:?}");
        }
        assert!("proc-00ff".parse::<ProcessTag>().is_ok());
    }
}
