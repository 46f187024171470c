//! What a call's headers say of the caller: which user to act as, how patient the way to it is.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use wrenn_contract::guest::USER_HEADER;
use wrenn_domain::limits::KEEPALIVE_EVERY;

/// Seconds between signs of life, as E2B clients ask for them.
const KEEPALIVE_HEADER: &str = "keepalive-ping-interval";

/// The user named by our header, or by HTTP basic auth as E2B clients do it.
pub fn user_named(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty());
    if let Some(user) = text(USER_HEADER) {
        return Some(user.to_owned());
    }
    let (scheme, credentials) = text(header::AUTHORIZATION.as_str())?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let user = credentials.split_once(':').map_or(credentials.as_str(), |(user, _)| user);
    (!user.is_empty()).then(|| user.to_owned())
}

/// Silence before a sign of life: what the caller asks for, but no more than what we take to be safe.
pub fn keepalive(headers: &HeaderMap) -> Duration {
    let asked = headers.get(KEEPALIVE_HEADER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    asked.map_or(KEEPALIVE_EVERY, |seconds: u64| Duration::from_secs(seconds.max(1)).min(KEEPALIVE_EVERY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn our_header_outranks_basic_auth_and_nonsense_names_nobody() {
        for (pairs, user) in [
            (&[][..], None),
            (&[("x-wrenn-user", "me")], Some("me")),
            (&[("x-wrenn-user", "")], None),
            (&[("authorization", "Basic dXNlcjo=")], Some("user")),
            (&[("authorization", "basic dXNlcg==")], Some("user")),
            (&[("authorization", "Basic dXNlcjo="), ("x-wrenn-user", "me")], Some("me")),
            (&[("authorization", "Basic OnNlY3JldA==")], None),
            (&[("authorization", "Basic %%%")], None),
            (&[("authorization", "Bearer dXNlcjo=")], None),
        ] {
            assert_eq!(user_named(&headers(pairs)).as_deref(), user, "{pairs:?}");
        }
    }

    #[test]
    fn a_sign_of_life_may_be_asked_for_more_often_but_not_less() {
        for (asked, seconds) in [("5", 5), ("0", 1), ("9999", 30), ("soon", 30), ("-1", 30)] {
            let headers = headers(&[(KEEPALIVE_HEADER, asked)]);
            assert_eq!(keepalive(&headers), Duration::from_secs(seconds), "{asked}");
        }
        assert_eq!(keepalive(&HeaderMap::new()), KEEPALIVE_EVERY);
    }
}
