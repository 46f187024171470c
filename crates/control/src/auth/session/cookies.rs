//! The two cookies of a session, read and written.

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use wrenn_domain::limits::SESSION_AGE_MAX;
use wrenn_domain::secret::Secret;

use super::middleware::{CSRF_COOKIE_NAME, SESSION_COOKIE_NAME};

/// What the CSRF token is derived for: it follows from the session's secret, so it is the session's own and needs no store.
const CSRF_PURPOSE: &str = "wrenn csrf";

/// What a request's session cookie says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SessionCookie {
    Absent,
    Malformed,
    /// More than one value. A sibling subdomain can set a cookie beside ours, and nothing in the request says which is whose:
    /// guessing could log a person into an attacker's account.
    Ambiguous,
    One(Secret),
}

/// The CSRF token of a session.
pub(super) fn csrf_of(session: &Secret) -> Secret {
    session.derive(CSRF_PURPOSE)
}

/// Reads the session cookie.
pub(super) fn session_of(headers: &HeaderMap) -> SessionCookie {
    let mut found: Option<&str> = None;
    for value in values(headers, SESSION_COOKIE_NAME) {
        match found {
            Some(other) if other != value => return SessionCookie::Ambiguous,
            _ => found = Some(value),
        }
    }
    match found {
        None | Some("") => SessionCookie::Absent,
        Some(text) => text.parse().map_or(SessionCookie::Malformed, SessionCookie::One),
    }
}

/// Every value of a cookie, in the order sent.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// Sets both cookies of a new session.
pub(super) fn set(headers: &mut HeaderMap, session: &Secret, secure: bool) {
    let age = SESSION_AGE_MAX.as_secs();
    let csrf = csrf_of(session).reveal();
    append(headers, &line(SESSION_COOKIE_NAME, &session.reveal(), "Strict", age, secure, true));
    append(headers, &line(CSRF_COOKIE_NAME, &csrf, "Strict", age, secure, false));
}

/// Takes both back.
pub(super) fn clear(headers: &mut HeaderMap, secure: bool) {
    append(headers, &line(SESSION_COOKIE_NAME, "", "Strict", 0, secure, true));
    append(headers, &line(CSRF_COOKIE_NAME, "", "Strict", 0, secure, false));
}

/// A Set-Cookie line for this host alone.
pub(crate) fn line(name: &str, value: &str, same_site: &str, age_secs: u64, secure: bool, http_only: bool) -> String {
    let http_only = if http_only { "; HttpOnly" } else { "" };
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; SameSite={same_site}; Max-Age={age_secs}{http_only}{secure}")
}

/// Adds a Set-Cookie line made by [`line`].
pub(crate) fn append(headers: &mut HeaderMap, line: &str) {
    // Made of our own names and hex; it always is a header value.
    if let Ok(value) = HeaderValue::from_str(line) {
        headers.append(SET_COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, line.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn one_cookie_is_found_and_two_different_ones_are_nobodys() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let one = SessionCookie::One(a.parse().expect("a secret"));
        assert_eq!(session_of(&headers(&[&format!("x=1; wrenn_sid={a}; y=2")])), one);
        assert_eq!(session_of(&headers(&[&format!("wrenn_sid={a}"), &format!("wrenn_sid={a}")])), one);
        let tossed = format!("wrenn_sid={b}; wrenn_sid={a}");
        assert_eq!(session_of(&headers(&[&tossed])), SessionCookie::Ambiguous);
        assert_eq!(session_of(&headers(&["wrenn_sid_x=1; xwrenn_sid=2"])), SessionCookie::Absent);
        assert_eq!(session_of(&headers(&["wrenn_sid="])), SessionCookie::Absent);
        assert_eq!(session_of(&headers(&["wrenn_sid=zz"])), SessionCookie::Malformed);
    }

    #[test]
    fn the_session_cookie_is_hidden_from_scripts_and_both_are_strict() {
        let mut out = HeaderMap::new();
        set(&mut out, &Secret::from_random([1; 32]), true);
        let lines: Vec<_> = out.get_all(SET_COOKIE).iter().map(|v| v.to_str().expect("text")).collect();
        assert!(lines[0].starts_with("wrenn_sid=01") && lines[0].contains("HttpOnly") && lines[0].contains("Secure"));
        assert!(lines[1].starts_with("wrenn_csrf=") && !lines[1].contains("HttpOnly"));
        assert!(lines.iter().all(|line| line.contains("SameSite=Strict") && !line.contains("Domain")));
        assert!(!lines[1].contains("01010101"), "the token gives nothing of the session away");
    }
}
