//! Arguments that many commands take, checked before anything is sent.

/// Parses a capsule id so that a typo is caught here, with the right hint.
///
/// # Errors
/// It is none.
pub fn capsule_id(text: &str) -> Result<String, String> {
    text.parse::<wrenn_domain::ids::SandboxId>()
        .map(|id| id.to_string())
        .map_err(|error| format!("{error}; `wrenn capsule list` shows the ids"))
}

/// Checks a pid or tag here, so that a typo needs no round trip.
///
/// # Errors
/// It is neither.
pub fn process_name(text: &str) -> Result<String, String> {
    let pid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !pid {
        text.parse::<wrenn_domain::names::ProcessTag>().map_err(|error| error.message)?;
    }
    Ok(text.to_owned())
}

/// Escapes a text for one segment of a URL's path.
pub fn in_path(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
