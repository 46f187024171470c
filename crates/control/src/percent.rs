//! Percent-escapes of texts that become part of a URL or a form. Source: RFC 3986, section 2.3 (unreserved characters).

/// Escapes a value for a query, one part of a path, or a form.
pub(crate) fn escape(text: &str) -> String {
    escape_but(text, |_| false)
}

/// Escapes a path, whose slashes stay.
pub(crate) fn escape_path(text: &str) -> String {
    escape_but(text, |byte| byte == b'/')
}

fn escape_but(text: &str, stays: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') || stays(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_place_in_the_query() {
        assert_eq!(escape_path("/a b&c=d#é\n"), "/a%20b%26c%3Dd%23%C3%A9%0A");
    }

    #[test]
    fn a_value_cannot_become_more_of_a_url_or_form() {
        assert_eq!(escape("a/b?c&d=e+%"), "a%2Fb%3Fc%26d%3De%2B%25");
    }
}
