//! The two cookies of a session, read and written.

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use wrenn_domain::limits::SESSION_AGE_MAX;
use wrenn_domain::secret::Secret;

use super::names::{CSRF_COOKIE_NAME, SESSION_COOKIE_NAME, cookie_name};

/// Purpose the CSRF token is derived for: it follows from the session's secret, so it is the session's own and needs no store.
const CSRF_PURPOSE: &str = "wrenn csrf";

/// Reading of a request's session cookie.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SessionCookie {
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

/// Reads the session cookie. Over TLS only the one that no sibling domain can set.
pub(crate) fn session_of(headers: &HeaderMap, secure: bool) -> SessionCookie {
    let mut found: Option<&str> = None;
    let name = cookie_name(SESSION_COOKIE_NAME, secure);
    for value in values(headers, &name) {
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

/// A Set-Cookie line for this host alone. A secure cookie gets the prefix that keeps other hosts from setting it.
pub(crate) fn line(name: &str, value: &str, same_site: &str, age_secs: u64, secure: bool, http_only: bool) -> String {
    let http_only = if http_only { "; HttpOnly" } else { "" };
    let secure = if secure { "; Secure" } else { "" };
    let name = cookie_name(name, !secure.is_empty());
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
        assert_eq!(session_of(&headers(&[&format!("x=1; wrenn_sid={a}; y=2")]), false), one);
        assert_eq!(session_of(&headers(&[&format!("wrenn_sid={a}"), &format!("wrenn_sid={a}")]), false), one);
        let tossed = format!("wrenn_sid={b}; wrenn_sid={a}");
        assert_eq!(session_of(&headers(&[&tossed]), false), SessionCookie::Ambiguous);
        assert_eq!(session_of(&headers(&["wrenn_sid_x=1; xwrenn_sid=2"]), false), SessionCookie::Absent);
        assert_eq!(session_of(&headers(&["wrenn_sid="]), false), SessionCookie::Absent);
        assert_eq!(session_of(&headers(&["wrenn_sid=zz"]), false), SessionCookie::Malformed);
    }

    #[test]
    fn over_tls_a_cookie_of_a_sibling_domain_counts_for_nothing() {
        let (ours, theirs) = (Secret::from_random([1; 32]), Secret::from_random([2; 32]));
        let both = format!("wrenn_sid={}; __Host-wrenn_sid={}", theirs.reveal(), ours.reveal());
        assert_eq!(session_of(&headers(&[&both]), true), SessionCookie::One(ours));
        let tossed = format!("wrenn_sid={}", theirs.reveal());
        assert_eq!(session_of(&headers(&[&tossed]), true), SessionCookie::Absent);
    }

    #[test]
    fn the_session_cookie_is_hidden_from_scripts_and_both_are_strict() {
        let mut out = HeaderMap::new();
        set(&mut out, &Secret::from_random([1; 32]), true);
        let lines: Vec<_> = out.get_all(SET_COOKIE).iter().map(|v| v.to_str().expect("text")).collect();
        assert!(
            lines[0].starts_with("__Host-wrenn_sid=01") && lines[0].contains("HttpOnly") && lines[0].contains("Secure")
        );
        assert!(lines[1].starts_with("__Host-wrenn_csrf=") && !lines[1].contains("HttpOnly"));
        assert!(lines.iter().all(|line| line.contains("SameSite=Strict") && !line.contains("Domain")));
        assert!(!lines[1].contains("01010101"), "the token gives nothing of the session away");
    }
}
