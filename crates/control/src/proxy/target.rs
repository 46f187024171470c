//! Which requests are meant for a port of a capsule: those whose host is `{port}-{capsule id}.{any domain}`.

use http::header::HOST;
use http::{HeaderValue, Request};
use wrenn_domain::ids::SandboxId;

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub port: u16,
    pub id: SandboxId,
    /// As the client wrote it, port included: what the guest's server gets to see.
    pub host: HeaderValue,
    /// The host's name alone, in small letters.
    pub name: String,
}

/// Why a request that is meant for a capsule's port cannot be sent there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTarget(&'static str);

/// `None`: the request is for the API.
pub fn claim<B>(request: &Request<B>) -> Option<Result<Target, BadTarget>> {
    // RFC 9112, section 3.2.2: an absolute form outranks the Host header. HTTP/2 has the same in :authority.
    if let Some(authority) = request.uri().authority() {
        return parse(authority.as_str().as_bytes());
    }
    let mut hosts = request.headers().get_all(HOST).iter().map(|host| parse(host.as_bytes()));
    let first = hosts.next()?;
    match hosts.next() {
        None => first,
        // Two servers could read two things in it.
        Some(second) if first.is_some() || second.is_some() || hosts.any(|other| other.is_some()) => {
            Some(Err(BadTarget("send one Host header")))
        }
        Some(_) => None,
    }
}

fn parse(text: &[u8]) -> Option<Result<Target, BadTarget>> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let (user, text) = text.rsplit_once('@').map_or((None, text), |(user, rest)| (Some(user), rest));
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let (label, _domain) = name.split_once('.').filter(|(_, domain)| !domain.is_empty())?;
    let (digits, id) = label.split_once('-')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || !id.starts_with("cl-") {
        return None;
    }
    let target = || {
        if user.is_some() {
            return Err(BadTarget("a Host header names no user"));
        }
        if port.is_some_and(|port| !port.bytes().all(|b| b.is_ascii_digit())) {
            return Err(BadTarget("the Host header is not valid"));
        }
        let port = digits.parse().ok().filter(|port| *port > 0);
        let port = port.ok_or(BadTarget("the port in the host name must be 1 to 65535"))?;
        let id = id.parse().map_err(|_| BadTarget("the capsule id in the host name is not valid"))?;
        let host = HeaderValue::from_str(text).map_err(|_| BadTarget("the Host header is not valid"))?;
        Ok(Target { port, id, host, name: name.clone() })
    };
    Some(target())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "cl-0000000000000000000000001";

    /// What becomes of a request with these hosts: "api", a port, or "bad".
    #[track_caller]
    fn check(uri: &str, hosts: &[&str], expected: &str) {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let found = match claim(&request.body(()).expect("a request")) {
            None => "api".to_owned(),
            Some(Ok(target)) => {
                assert_eq!(target.id.to_string(), ID);
                target.port.to_string()
            }
            Some(Err(_)) => "bad".to_owned(),
        };
        assert_eq!(found, expected, "{uri} {hosts:?}");
    }

    #[test]
    fn only_names_of_ports_leave_the_api() {
        check("/", &[&format!("8000-{ID}.localhost:8080")], "8000");
        check("/", &[&format!("8000-{ID}.localhost")], "8000");
        check("/", &[&format!("8000-{ID}.a.b.example.com.")], "8000");
        check("/", &[&format!("8000-{}.LOCALHOST", ID.to_uppercase())], "8000");
        check("/", &[], "api");
        for host in
            ["localhost", "127.0.0.1:8000", "[::1]:8000", "8000.example.com", "8000-x.example.com", "-cl-1.x", ""]
        {
            check("/", &[host], "api");
        }
        check("/", &[&format!("8000-{ID}")], "api");
        check("/", &[&format!("8000-{ID}.")], "api");
        check("/", &[&format!("a8000-{ID}.x")], "api");
        check("/", &[&format!("x.8000-{ID}.y")], "api");
    }

    #[test]
    fn what_is_meant_for_a_port_but_wrong_is_refused() {
        check("/", &[&format!("0-{ID}.x")], "bad");
        check("/", &[&format!("65536-{ID}.x")], "bad");
        check("/", &[&format!("99999999999999999999-{ID}.x")], "bad");
        check("/", &["80-cl-zzzzzzzzzzzzzzzzzzzzzzzzz.x"], "bad");
        check("/", &["80-cl-1.x"], "bad");
        check("/", &[&format!("user@80-{ID}.x")], "bad");
        check("/", &[&format!("user:80@80-{ID}.x")], "bad");
        check("/", &[&format!("80-{ID}.x:80a")], "bad");
        check("/", &["localhost", &format!("80-{ID}.x")], "bad");
        check("/", &[&format!("80-{ID}.x"), "localhost"], "bad");
        check("/", &["localhost", "127.0.0.1"], "api");
    }

    #[test]
    fn an_absolute_form_outranks_the_host() {
        check(&format!("http://80-{ID}.x/a"), &["localhost"], "80");
        check("http://localhost/a", &[&format!("80-{ID}.x")], "api");
        check(&format!("http://user@80-{ID}.x/a"), &["localhost"], "bad");
    }
}
