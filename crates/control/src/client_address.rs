//! The address a request comes from, and whether it came over TLS. Only proxies we were told to trust are believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, request};
use ipnet::IpNet;

/// The other end of the TCP connection; put into every request by the server.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    ip: IpAddr,
    tls: bool,
}

impl ClientAddress {
    /// Finds the address of a request's client, by its connection and, if that is a trusted proxy's, by what the proxies say.
    pub fn of(parts: &request::Parts, trusted: &[IpNet]) -> Self {
        // Without a connection (a call inside the process) there is nobody to trust.
        let peer = parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        Self::behind(peer.to_canonical(), &parts.headers, trusted)
    }

    /// Finds the address of a client by its connection's other end and, if that is a trusted proxy, by what the proxies say.
    pub(crate) fn behind(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
        if !is_trusted(&peer) {
            return Self { ip: peer, tls: false };
        }
        // The last entry was written by the nearest proxy; what stands before the first untrusted one is hearsay.
        let hops = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = hops.flat_map(|value| value.split(',')).map(str::trim).collect();
        let mut ip = peer;
        for hop in hops.iter().rev() {
            let Some(next) = parse(hop) else { break };
            ip = next;
            if !is_trusted(&ip) {
                break;
            }
        }
        let proto = headers.get_all("x-forwarded-proto").iter().next_back().and_then(|value| value.to_str().ok());
        let tls = proto.and_then(|text| text.rsplit(',').next()).is_some_and(|text| text.trim() == "https");
        Self { ip, tls }
    }

    /// Whether the connection itself comes from a trusted proxy.
    pub fn is_proxied(parts: &request::Parts, trusted: &[IpNet]) -> bool {
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip().to_canonical());
        peer.is_some_and(|peer| trusted.iter().any(|net| net.contains(&peer)))
    }

    /// Whether a trusted proxy says that the client speaks TLS.
    pub fn is_tls(self) -> bool {
        self.tls
    }

    /// Network that limits count by: one IPv4 address, or the /64 an IPv6 customer usually owns.
    pub fn network(self) -> String {
        match self.ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        }
    }
}

fn parse(hop: &str) -> Option<IpAddr> {
    let ip = hop.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|addr| addr.ip()));
    ip.ok().or_else(|| hop.trim_matches(['[', ']']).parse().ok()).map(|ip: IpAddr| ip.to_canonical())
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(peer: &str, forwarded: &[&str], trusted: &str, expected: &str) {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().expect("a value"));
        }
        let trusted: Vec<IpNet> = trusted.split_whitespace().map(|net| net.parse().expect("a net")).collect();
        let found = ClientAddress::behind(peer.parse().expect("an address"), &headers, &trusted);
        assert_eq!(found.to_string(), expected, "{peer} {forwarded:?}");
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_as_far_as_they_saw() {
        check("9.9.9.9", &["1.2.3.4"], "", "9.9.9.9");
        check("9.9.9.9", &["1.2.3.4"], "10.0.0.0/8", "9.9.9.9");
        check("10.0.0.1", &["1.2.3.4"], "10.0.0.0/8", "1.2.3.4");
        check("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "10.0.0.0/8", "1.2.3.4");
        check("10.0.0.1", &["6.6.6.6", "1.2.3.4"], "10.0.0.0/8", "1.2.3.4");
        check("10.0.0.1", &["1.2.3.4, nonsense"], "10.0.0.0/8", "10.0.0.1");
        check("10.0.0.1", &["1.2.3.4:5678"], "10.0.0.0/8", "1.2.3.4");
        check("10.0.0.1", &[], "10.0.0.0/8", "10.0.0.1");
        check("::1", &["[2001:db8::7]"], "::1/128", "2001:db8::7");
    }

    #[test]
    fn tls_is_believed_of_trusted_proxies_only_and_v6_counts_by_its_network() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-proto", "https".parse().expect("a value"));
        let trusted = ["10.0.0.0/8".parse().expect("a net")];
        let here = |peer: &str| ClientAddress::behind(peer.parse().expect("an address"), &headers, &trusted);
        assert!(here("10.0.0.1").is_tls());
        assert!(!here("9.9.9.9").is_tls());
        assert_eq!(here("2001:db8:1:2:3:4:5:6").network(), "2001:db8:1:2::/64");
    }
}
