//! Entry points of the fuzz targets of this crate. Not part of its interface.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use chrono::DateTime;
use http::header::{CONNECTION, COOKIE, HOST, SET_COOKIE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use wrenn_domain::ids::EventId;
use wrenn_domain::notification_channel::{ChannelConfig, Provider};
use wrenn_store::pg::Author;

use crate::auth::session::cookies::{SessionCookie, session_of};
use crate::auth::session::middleware::cookie_values;
use crate::auth::session::names::{CSRF_COOKIE_NAME, SESSION_COOKIE_NAME, cookie_name, is_session_cookie};
use crate::notification_channels::{Notice, provider};
use crate::proxy::headers::{KEY_HEADER, Step, to_client, to_guest, upgrade_of};
use crate::proxy::{Target, claim};

/// Fuzz target of a request's head at the port proxy, and of a guest's answer with the same lines: no credential of ours passes to a
/// guest, no hop header either way, and no cookie for more than the guest's own host back.
pub fn proxy_head(bytes: &[u8]) {
    let headers = headers_of(bytes);
    let mut request = Request::new(());
    *request.headers_mut() = headers.clone();
    let Some(Ok(target)) = claim(&request) else { return };
    assert!(target.port > 0 && target.name.contains(&target.id.to_string()), "{target:?}");
    for trusted in [false, true] {
        let mut passed = headers.clone();
        let upgrade = upgrade_of(Version::HTTP_11, &headers);
        let step = Step { peer: IpAddr::V4(Ipv4Addr::LOCALHOST), trusted };
        to_guest(&mut passed, &target, step, upgrade.clone());
        assert_eq!(passed.get_all(HOST).iter().collect::<Vec<_>>(), [&target.host], "one Host header");
        assert!(!passed.contains_key(KEY_HEADER) && !passed.contains_key(TRANSFER_ENCODING));
        assert_eq!(passed.get(UPGRADE), upgrade.as_ref(), "only what was judged is asked for");
        let names = passed.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let names = names.map(|pair| pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii());
        for name in names {
            assert!(!is_session_cookie(name), "{} passes", String::from_utf8_lossy(name));
        }
    }
    answer_of_a_guest(headers, &target);
}

fn answer_of_a_guest(mut headers: HeaderMap, target: &Target) {
    to_client(&mut headers, target, None);
    assert!(!headers.contains_key(CONNECTION) && !headers.contains_key(TRANSFER_ENCODING));
    for line in headers.get_all(SET_COOKIE) {
        for part in line.as_bytes().split(|byte| *byte == b';').skip(1) {
            let mut words = part.splitn(2, |byte| *byte == b'=');
            let (name, value) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim_ascii());
            let value = value.strip_prefix(b".").unwrap_or(value);
            let is_domain = name.trim_ascii().eq_ignore_ascii_case(b"domain");
            assert!(!is_domain || value.eq_ignore_ascii_case(target.name.as_bytes()), "{line:?} is for other hosts");
        }
    }
}

/// Fuzz target of a notification channel's configuration, `provider` in the first line and the values as JSON after it: what is taken
/// makes one request with a host.
pub fn channel_config(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (first, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Some(provider) = std::str::from_utf8(first).ok().and_then(|name| name.parse::<Provider>().ok()) else { return };
    let Ok(values) = serde_json::from_slice::<BTreeMap<String, String>>(rest) else { return };
    let Ok(config) = ChannelConfig::new(provider, values) else { return };
    let notice = Notice::test(EventId::from_uuid(uuid::Uuid::nil()), &Author::system(), DateTime::UNIX_EPOCH);
    let request = provider::request(&config, &notice, DateTime::UNIX_EPOCH).expect("what is taken makes a request");
    assert!(request.uri().host().is_some_and(|host| !host.is_empty()), "{}", request.uri());
}

/// Fuzz target of the cookies of a request: a session is found only when every value of its cookie is the same.
pub fn cookies(bytes: &[u8]) {
    let headers = headers_of(bytes);
    for name in [SESSION_COOKIE_NAME, CSRF_COOKIE_NAME] {
        for value in cookie_values(&headers, name) {
            assert!(!value.contains(';'), "a value ends where the next cookie begins");
        }
    }
    for secure in [false, true] {
        if let SessionCookie::One(secret) = session_of(&headers, secure) {
            let (text, name) = (secret.reveal(), cookie_name(SESSION_COOKIE_NAME, secure));
            assert!(cookie_values(&headers, &name).all(|value| value.eq_ignore_ascii_case(&text)));
        }
    }
}

/// Lines `name: value` as headers; what is none is left out.
fn headers_of(bytes: &[u8]) -> HeaderMap {
    let lines = bytes.split(|byte| *byte == b'\n').take(200);
    lines
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
        })
        .fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        })
}
