//! Addresses of servers as people write them: `http://host:port/path`.
//!
//! Parsed once, strictly: HTTP clients take a port that is none for no port at all, and would talk to port 80 with the key.

use std::fmt;
use std::str::FromStr;

/// Bytes of an address; far above any real one.
const BYTES_MAX: usize = 2048;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// Address of a server, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    scheme: Scheme,
    /// A name, an IPv4 address, or an IPv6 address in brackets; lower case.
    host: String,
    port: Option<u16>,
    /// Empty, or begins with a slash and ends without one.
    path: String,
}

/// A text is no address of a server; says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BaseUrlError(&'static str);

impl BaseUrl {
    /// Whether TLS is spoken.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if it was named.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The path, without a slash at its end.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether both lead to the same server.
    pub fn is_same(&self, other: &Self) -> bool {
        let port = |url: &Self| {
            url.port.unwrap_or(match url.scheme {
                Scheme::Http => 80,
                Scheme::Https => 443,
            })
        };
        (self.scheme, &self.host, &self.path) == (other.scheme, &other.host, &other.path) && port(self) == port(other)
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let wrong = |why| Err(BaseUrlError(why));
        if text.len() > BYTES_MAX {
            return wrong("it is longer than 2048 bytes");
        }
        if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return wrong("it holds a blank, a control character or one that is not ASCII");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong("it does not begin with http:// or https://");
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return wrong("it does not begin with http:// or https://"),
        };
        if rest.contains(['?', '#', '\\']) {
            return wrong("it has a query, a fragment or a backslash");
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return wrong("it names a user before the host");
        }
        let (host, port) = split_port(authority)?;
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port, path: path.trim_end_matches('/').to_owned() })
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), BaseUrlError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']').ok_or(BaseUrlError("a bracket of its IPv6 address is missing"))?;
            if rest[..end].parse::<std::net::Ipv6Addr>().is_err() {
                return Err(BaseUrlError("there is no IPv6 address in its brackets"));
            }
            let (host, after) = authority.split_at(end + 2);
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(BaseUrlError("something follows its IPv6 address")),
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || !(host.starts_with('[') || host.bytes().all(name)) {
        return Err(BaseUrlError("it names no host"));
    }
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = digits.parse().ok().filter(|port| *port > 0);
            Some(port.ok_or(BaseUrlError("its port is not between 1 and 65535"))?)
        }
        Some(_) => return Err(BaseUrlError("its port is not between 1 and 65535")),
    };
    Ok((host, port))
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_back() {
        for (text, written) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("HTTPS://Wrenn.Example.com/", "https://wrenn.example.com"),
            ("http://[::1]:8000/api/", "http://[::1]:8000/api"),
            ("http://localhost:65535", "http://localhost:65535"),
            ("http://a_b-c.d:1//", "http://a_b-c.d:1"),
        ] {
            assert_eq!(text.parse::<BaseUrl>().unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn what_another_reader_might_take_for_another_server_is_refused() {
        for (text, word) in [
            ("http://127.0.0.1:80000", "65535"),
            ("http://127.0.0.1:0", "65535"),
            ("http://127.0.0.1:", "65535"),
            ("http://127.0.0.1:+80", "65535"),
            ("http://127.0.0.1:8000:1", "65535"),
            ("127.0.0.1:8000", "http://"),
            ("ftp://x", "http://"),
            ("http://", "host"),
            ("http://:80", "host"),
            ("http://user@host", "user"),
            ("http://host?x", "query"),
            ("http://host\\@evil", "backslash"),
            ("http://ho st", "blank"),
            ("http://h\u{f6}st", "ASCII"),
            ("http://[::1", "bracket"),
            ("http://[x]:1", "IPv6"),
            ("http://[::1]x", "follows"),
        ] {
            let error = text.parse::<BaseUrl>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_server_is_the_same_however_its_usual_port_is_written() {
        let same = |a: &str, b: &str| a.parse::<BaseUrl>().unwrap().is_same(&b.parse().unwrap());
        assert!(same("http://a", "HTTP://A:80/"));
        assert!(same("https://a:443", "https://a"));
        assert!(!same("http://a", "https://a"));
        assert!(!same("http://a:81", "http://a"));
        assert!(!same("http://a/x", "http://a"));
    }
}
