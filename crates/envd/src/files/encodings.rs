//! `Accept-Encoding` and `Content-Encoding`: gzip and nothing else. A file travels inside one machine or a data centre
//! most of the time, so it is packed only for who asks.

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};

use crate::http::Reply;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
}

/// Encodings a client can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub gzip: bool,
    pub identity: bool,
}

impl Accepted {
    /// Reads the header by RFC 9110, section 12.5.3: names with weights, `*` for those not named, identity always
    /// unless excluded. gzip counts as asked for only by name or `*`, and at no lower weight than identity's.
    pub fn read(headers: &HeaderMap) -> Self {
        let (mut gzip, mut identity, mut any) = (None, None, None);
        let lines = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for item in lines.flat_map(|line| line.split(',')) {
            let mut parts = item.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            // A weight that is no number makes the item worthless.
            let weight = weight.map_or(1.0, |text| text.parse::<f32>().unwrap_or(0.0));
            match name.as_str() {
                "gzip" | "x-gzip" => gzip = Some(weight),
                "identity" => identity = Some(weight),
                "*" => any = Some(weight),
                _ => {}
            }
        }
        let gzip = gzip.or(any).unwrap_or(0.0);
        Self { gzip: gzip > 0.0 && gzip >= identity.unwrap_or(0.0), identity: identity.or(any).unwrap_or(1.0) > 0.0 }
    }
}

/// How an upload is packed.
///
/// # Errors
/// 400 for packings we do not know.
pub fn of_upload(headers: &HeaderMap) -> Result<Encoding, Reply> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    let name = value.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    match (name.as_str(), values.next()) {
        ("" | "identity", None) => Ok(Encoding::Identity),
        ("gzip" | "x-gzip", None) => Ok(Encoding::Gzip),
        _ => Err(Reply::bad_request("the content encoding must be gzip or identity")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_decide_what_a_client_gets() {
        for (header, gzip, identity) in [
            ("", false, true),
            ("gzip", true, true),
            ("GZIP, deflate, br", true, true),
            ("gzip;q=0", false, true),
            ("gzip; q=0.5, identity", false, true),
            ("gzip;q=0.5, identity;q=0.5", true, true),
            ("identity;q=0", false, false),
            ("*;q=0", false, false),
            ("*", true, true),
            ("gzip, *;q=0", true, false),
            ("br", false, true),
            ("gzip;q=x", false, true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, header.parse().unwrap());
            assert_eq!(Accepted::read(&headers), Accepted { gzip, identity }, "{header}");
        }
        assert_eq!(Accepted::read(&HeaderMap::new()), Accepted { gzip: false, identity: true });
    }
}
