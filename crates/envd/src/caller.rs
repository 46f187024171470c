//! Whom a call acts as: the user it names, or the sandbox's default user.
//!
//! Not a matter of trust: whoever has the sandbox's token may name any user, root too. It decides whose files these
//! are, and keeps a call made for one user from being led astray by another user's links.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use wrenn_contract::guest::USER_HEADER;

use crate::disk::{Asker, DiskError};
use crate::identity::Identity;

/// Bytes of a user name: useradd's bound is 32, other directories know longer ones.
const USER_BYTES_MAX: usize = 256;

/// Reads who is meant: `named` in the query, then the header, then the name in HTTP basic authentication (whose
/// password means nothing), then the default user. Empty names count as none.
///
/// # Errors
/// A header that cannot be read.
pub fn asker(headers: &HeaderMap, named: Option<&str>, identity: &Identity) -> Result<Asker, DiskError> {
    let defaults = identity.defaults();
    let user = match named.filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => named_in(headers)?.unwrap_or_else(|| defaults.user.clone()),
    };
    if user.len() > USER_BYTES_MAX {
        return Err(DiskError::Invalid(format!("a user name has at most {USER_BYTES_MAX} bytes")));
    }
    // The default working directory belongs to the default user: others may not even enter it.
    let workdir = defaults.workdir.filter(|_| user == defaults.user);
    Ok(Asker { user, workdir })
}

fn named_in(headers: &HeaderMap) -> Result<Option<String>, DiskError> {
    let unreadable = |name: &str| DiskError::Invalid(format!("the header {name} cannot be read"));
    if let Some(value) = headers.get(USER_HEADER) {
        let name = std::str::from_utf8(value.as_bytes()).map_err(|_| unreadable(USER_HEADER))?;
        if !name.is_empty() {
            return Ok(Some(name.to_owned()));
        }
    }
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let Some(encoded) = value.to_str().ok().and_then(strip_basic) else { return Ok(None) };
    let decoded = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or_else(|| unreadable("authorization"))?;
    let name = decoded.split(':').next().unwrap_or_default();
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

/// The scheme's name is case-insensitive.
fn strip_basic(value: &str) -> Option<&str> {
    let (scheme, rest) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("basic").then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use wrenn_contract::guest::Init;

    #[test]
    fn the_nearest_name_wins_and_empty_ones_do_not_count() {
        let identity = Identity::new(Path::new("/nonexistent"));
        identity.apply(&Init { default_user: Some("fallback".into()), ..Init::default() });
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let cases = [
            (Some("query"), Some("header"), Some(basic("basic:")), "query"),
            (Some(""), Some("header"), Some(basic("basic:")), "header"),
            (None, Some(""), Some(basic("basic:pass")), "basic"),
            (None, None, Some(basic("basic")), "basic"),
            (None, None, Some(basic(":")), "fallback"),
            (None, None, Some("Bearer abc".into()), "fallback"),
            (None, None, Some(basic("lower:").replace("Basic", "bAsic")), "lower"),
            (None, None, None, "fallback"),
        ];
        for (query, header, authorization, expected) in cases {
            let mut headers = HeaderMap::new();
            header.map(|value: &str| headers.insert(USER_HEADER, value.parse().unwrap()));
            authorization.map(|value: String| headers.insert(AUTHORIZATION, value.parse().unwrap()));
            assert_eq!(asker(&headers, query, &identity).unwrap().user, expected);
        }
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Basic ???".parse().unwrap());
        assert!(asker(&headers, None, &identity).is_err());
        assert!(asker(&HeaderMap::new(), Some(&"u".repeat(257)), &identity).is_err());
    }
}
