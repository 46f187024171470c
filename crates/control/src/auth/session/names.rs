//! Names of a session's cookies and header, as browsers and scripts see them.

/// Cookie that holds the session; scripts cannot read it. Over TLS its name begins with [`HOST_PREFIX`].
pub const SESSION_COOKIE_NAME: &str = "wrenn_sid";
/// Cookie by which scripts learn the CSRF token. Over TLS its name begins with [`HOST_PREFIX`].
pub const CSRF_COOKIE_NAME: &str = "wrenn_csrf";
/// Header that carries the CSRF token on every method but GET, HEAD and OPTIONS.
pub const CSRF_HEADER_NAME: &str = "X-CSRF-Token";
/// Prefix of cookies that a browser takes from this very host over TLS only, never from a sibling domain.
pub const HOST_PREFIX: &str = "__Host-";

/// Name under which a cookie of ours travels.
pub(crate) fn cookie_name(name: &str, secure: bool) -> String {
    if secure { format!("{HOST_PREFIX}{name}") } else { name.to_owned() }
}

/// Whether a cookie is one of a session's, in either form.
pub(crate) fn is_session_cookie(name: &[u8]) -> bool {
    let name = name.strip_prefix(HOST_PREFIX.as_bytes()).unwrap_or(name);
    name == SESSION_COOKIE_NAME.as_bytes() || name == CSRF_COOKIE_NAME.as_bytes()
}
