//! How patient the way to a caller is: how often a stream must show a sign of life.

use std::time::Duration;

use http::HeaderMap;
use wrenn_domain::limits::KEEPALIVE_EVERY;

/// Seconds between signs of life, as E2B clients ask for them.
const KEEPALIVE_HEADER: &str = "keepalive-ping-interval";

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
    fn a_sign_of_life_may_be_asked_for_more_often_but_not_less() {
        for (asked, seconds) in [("5", 5), ("0", 1), ("9999", 30), ("soon", 30), ("-1", 30)] {
            let headers = headers(&[(KEEPALIVE_HEADER, asked)]);
            assert_eq!(keepalive(&headers), Duration::from_secs(seconds), "{asked}");
        }
        assert_eq!(keepalive(&HeaderMap::new()), KEEPALIVE_EVERY);
    }
}
