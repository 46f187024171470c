//! What passes between a client and a guest's server, and what does not.
//!
//! Our credentials and the connection's own headers stay here; what a client says of where it comes from counts only if a trusted
//! proxy says it; a guest sets cookies for its own host only.

use std::net::IpAddr;

use http::header::{CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, SET_COOKIE, TE, UPGRADE};
use http::{HeaderMap, HeaderValue, Version};
use wrenn_contract::hop_by_hop::remove_hop;

use super::target::Target;
use crate::auth::session::names::is_session_cookie;

/// Where our callers put their key.
pub(crate) const KEY_HEADER: &str = "x-api-key";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: &str = "x-forwarded-";
const REAL_IP: &str = "x-real-ip";

/// The last step a request came over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Whether its word about earlier steps is taken.
    pub trusted: bool,
}

/// Another protocol that is asked for. `h2c` is not passed on: what is said in it would pass by every check made here.
pub(crate) fn upgrade_of(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !lists(headers, &CONNECTION, "upgrade") {
        return None;
    }
    let mut asked = headers.get_all(UPGRADE).iter();
    let (first, more) = (asked.next()?, asked.next());
    let text = first.to_str().ok()?;
    let is_fit = more.is_none() && !text.split(',').any(|name| name.trim().to_ascii_lowercase().starts_with("h2c"));
    is_fit.then(|| first.clone())
}

/// Makes a client's headers fit for the guest.
pub(crate) fn to_guest(headers: &mut HeaderMap, target: &Target, step: Step, upgrade: Option<HeaderValue>) {
    let trailers = lists(headers, &TE, "trailers");
    remove_hop(headers);
    headers.remove(KEY_HEADER);
    // Answered by our own server, which asks for the body when it is wanted.
    headers.remove(EXPECT);
    remove_own_cookies(headers);
    headers.insert(HOST, target.host.clone());
    forward(headers, target, step);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    } else if trailers {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Makes a guest's headers fit for the client.
pub(crate) fn to_client(headers: &mut HeaderMap, target: &Target, upgrade: Option<HeaderValue>) {
    remove_hop(headers);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    if !headers.contains_key(SET_COOKIE) {
        return;
    }
    let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().map(|line| own_host(line, target)).collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
}

fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|item| {
        let item = item.split(';').next().unwrap_or_default();
        item.trim().eq_ignore_ascii_case(word)
    })
}

/// Our cookies go; the others become one line, which HTTP/1.1 wants and HTTP/2 clients do not send.
fn remove_own_cookies(headers: &mut HeaderMap) {
    if !headers.contains_key(COOKIE) {
        return;
    }
    let own = |pair: &[u8]| {
        let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
        is_session_cookie(name)
    };
    let kept: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty() && !own(pair))
        .collect();
    // Made of pieces of header values; it always is one.
    let line = HeaderValue::from_bytes(&kept.join(b"; ".as_slice())).ok().filter(|line| !line.is_empty());
    match line {
        Some(line) => drop(headers.insert(COOKIE, line)),
        None => drop(headers.remove(COOKIE)),
    }
}

fn forward(headers: &mut HeaderMap, target: &Target, step: Step) {
    if !step.trusted {
        let said: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(FORWARDED_PREFIX)).cloned().collect();
        for name in said.into_iter().chain([FORWARDED, HeaderName::from_static(REAL_IP)]) {
            headers.remove(name);
        }
    }
    let before: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let peer = step.peer.to_string();
    let steps = [before.as_slice(), &[peer.as_bytes()]].concat().join(b", ".as_slice());
    if let Ok(steps) = HeaderValue::from_bytes(&steps) {
        headers.insert(FORWARDED_FOR, steps);
    }
    headers.entry(FORWARDED_HOST).or_insert_with(|| target.host.clone());
    // We speak plain HTTP; who ends TLS before us is trusted and says so.
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

/// A cookie for the host itself: without a Domain of a parent, which our own API and other capsules may share.
fn own_host(line: &HeaderValue, target: &Target) -> HeaderValue {
    let mut parts = line.as_bytes().split(|b| *b == b';');
    let mut kept = vec![parts.next().unwrap_or_default()];
    let mut dropped = false;
    for part in parts {
        let mut words = part.splitn(2, |b| *b == b'=');
        let name = words.next().unwrap_or_default().trim_ascii();
        let value = words.next().unwrap_or_default().trim_ascii();
        let value = value.strip_prefix(b".").unwrap_or(value);
        if name.eq_ignore_ascii_case(b"domain") && !value.eq_ignore_ascii_case(target.name.as_bytes()) {
            dropped = true;
        } else {
            kept.push(part);
        }
    }
    if !dropped {
        return line.clone();
    }
    HeaderValue::from_bytes(&kept.join(b";".as_slice())).unwrap_or_else(|_| line.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            port: 80,
            id: "cl-0000000000000000000000001".parse().expect("an id"),
            host: HeaderValue::from_static("80-cl-0000000000000000000000001.example.com:8080"),
            name: "80-cl-0000000000000000000000001.example.com".to_owned(),
        }
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
        }
        headers
    }

    fn sent(lines: &[(&str, &str)], trusted: bool) -> HeaderMap {
        let mut headers = headers(lines);
        to_guest(&mut headers, &target(), Step { peer: "10.1.2.3".parse().expect("an address"), trusted }, None);
        headers
    }

    #[test]
    fn our_credentials_stay_here_and_others_pass() {
        let out = sent(
            &[
                ("x-api-key", "wrn_1"),
                ("cookie", "a=1; wrenn_sid=secret"),
                ("cookie", "wrenn_csrf=token; b=wrenn_sid=2;; c"),
                ("authorization", "Bearer theirs"),
            ],
            false,
        );
        assert_eq!(out.get("x-api-key"), None);
        assert_eq!(out["cookie"], "a=1; b=wrenn_sid=2; c");
        assert_eq!(out["authorization"], "Bearer theirs");
        assert_eq!(sent(&[("cookie", "wrenn_sid=secret")], false).get("cookie"), None);
    }

    #[test]
    fn headers_of_the_connection_stay_here() {
        let out = sent(
            &[
                ("connection", "close, X-Secret"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("te", "trailers, deflate"),
                ("expect", "100-continue"),
            ],
            false,
        );
        for name in ["x-secret", "keep-alive", "expect"] {
            assert_eq!(out.get(name), None, "{name}");
        }
        assert_eq!((&out["te"], &out["connection"]), (&"trailers".parse().expect("ok"), &"te".parse().expect("ok")));
    }

    #[test]
    fn only_a_trusted_proxy_says_where_a_request_comes_from() {
        let said = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
        ];
        let out = sent(&said, false);
        assert_eq!(out["x-forwarded-for"], "10.1.2.3");
        assert_eq!(out["x-forwarded-proto"], "http");
        assert_eq!(out["x-forwarded-host"], target().host);
        for name in ["x-forwarded-port", "forwarded", "x-real-ip"] {
            assert_eq!(out.get(name), None, "{name}");
        }
        let out = sent(&said, true);
        assert_eq!(out["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.1.2.3");
        assert_eq!(
            (&out["x-forwarded-proto"], &out["x-forwarded-host"]),
            (&"https".parse().expect("ok"), &"evil".parse().expect("ok"))
        );
    }

    #[test]
    fn cookies_are_for_the_guests_own_host_only() {
        let mut out = headers(&[
            ("set-cookie", "a=1; Domain=example.com; Path=/"),
            ("set-cookie", "b=2; domain = .80-CL-0000000000000000000000001.example.com; HttpOnly"),
            ("set-cookie", "wrenn_sid=x; Path=/;DOMAIN=.com"),
            ("set-cookie", "d=domain=evil"),
        ]);
        to_client(&mut out, &target(), None);
        let lines: Vec<_> = out.get_all("set-cookie").iter().map(|v| v.to_str().expect("text").to_owned()).collect();
        assert_eq!(
            lines,
            [
                "a=1; Path=/",
                "b=2; domain = .80-CL-0000000000000000000000001.example.com; HttpOnly",
                "wrenn_sid=x; Path=/",
                "d=domain=evil"
            ]
        );
    }

    #[test]
    fn a_websocket_may_be_asked_for_and_h2c_may_not() {
        let asked = |lines: &[(&str, &str)]| upgrade_of(Version::HTTP_11, &headers(lines));
        assert!(asked(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]).is_some());
        assert!(asked(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]).is_none());
        assert!(asked(&[("connection", "Upgrade"), ("upgrade", "websocket, h2c")]).is_none());
        assert!(asked(&[("connection", "Upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]).is_none());
        assert!(asked(&[("upgrade", "websocket")]).is_none());
        assert!(upgrade_of(Version::HTTP_10, &headers(&[("connection", "upgrade"), ("upgrade", "x")])).is_none());
    }
}
