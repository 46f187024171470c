//! Which addresses may be called on somebody else's word. A user's URL must not lead to what only this machine or its network can
//! reach, and a name may point elsewhere tomorrow: so every connection is judged by the address it is about to be made to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::task::{Context, Poll};
use std::vec;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use ipnet::{Ipv4Net, Ipv6Net};
use tower::Service;
use wrenn_domain::limits::SITE_CONNECT_MAX;

/// Whom a client may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Addresses the operator chose, or allows.
    Anywhere,
    /// Addresses of the public internet.
    Public,
}

/// An address that may not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    #[error("its address is not one of the public internet")]
    NotPublic,
    #[error("its name cannot be resolved")]
    NoAddress,
    #[error("it is not a URL of a host: https://host/path, without a user name")]
    NoHost,
}

impl ReachError {
    /// This error as it comes back out of a client.
    pub(super) fn inside(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref().copied()
    }
}

/// Not of the public internet. Source: the special-purpose registries of IANA, and multicast.
const SPECIAL_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// What is handed out to the world so far.
const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Parts of that which are not: IETF protocols with Teredo, documentation, 6to4.
const SPECIAL_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn is_public(ip: IpAddr) -> bool {
    let in_v4 = |&(net, bits): &(Ipv4Addr, u8), ip: &Ipv4Addr| Ipv4Net::new_assert(net, bits).contains(ip);
    let in_v6 = |&(net, bits): &(Ipv6Addr, u8), ip: &Ipv6Addr| Ipv6Net::new_assert(net, bits).contains(ip);
    match ip.to_canonical() {
        IpAddr::V4(ip) => !SPECIAL_V4.iter().any(|net| in_v4(net, &ip)),
        IpAddr::V6(ip) => in_v6(&GLOBAL_V6, &ip) && !SPECIAL_V6.iter().any(|net| in_v6(net, &ip)),
    }
}

impl Reach {
    fn admits(self, ip: IpAddr) -> bool {
        self == Self::Anywhere || is_public(ip)
    }

    /// Judges a URL whose host is an address: those are not resolved.
    pub(super) fn check_literal(self, uri: &Uri) -> Result<(), ReachError> {
        match literal(uri) {
            Some(ip) if !self.admits(ip) => Err(ReachError::NotPublic),
            _ => Ok(()),
        }
    }

    /// Judges a URL before it is kept, so that its owner hears of it at once. What counts is judged at every connection.
    pub async fn check(self, url: &str) -> Result<(), ReachError> {
        let uri: Uri = url.parse().map_err(|_| ReachError::NoHost)?;
        let authority =
            uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(ReachError::NoHost)?;
        self.check_literal(&uri)?;
        if self == Self::Anywhere || literal(&uri).is_some() {
            return Ok(());
        }
        let host = authority.host().to_owned();
        let resolved = tokio::task::spawn_blocking(move || (host, 0).to_socket_addrs());
        let resolved = tokio::time::timeout(SITE_CONNECT_MAX, resolved).await;
        let Ok(Ok(Ok(mut addresses))) = resolved else { return Err(ReachError::NoAddress) };
        match addresses.any(|address| self.admits(address.ip())) {
            true => Ok(()),
            false => Err(ReachError::NotPublic),
        }
    }
}

fn literal(uri: &Uri) -> Option<IpAddr> {
    uri.host()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The system's resolver, but for addresses that may not be called.
#[derive(Clone)]
pub(super) struct Resolver {
    inner: GaiResolver,
    reach: Reach,
}

impl Resolver {
    pub(super) fn new(reach: Reach) -> Self {
        Self { inner: GaiResolver::new(), reach }
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, reach) = (self.inner.call(name), self.reach);
        async move {
            let admitted: Vec<_> = resolving.await?.filter(|address| reach.admits(address.ip())).collect();
            if admitted.is_empty() {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, ReachError::NotPublic));
            }
            Ok(admitted.into_iter())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "100.63.0.1", "172.32.0.1", "198.20.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[tokio::test]
    async fn a_url_is_judged_by_where_it_leads() {
        for (url, expected) in [
            ("http://127.0.0.1:8000/", ReachError::NotPublic),
            ("http://[::1]/", ReachError::NotPublic),
            ("http://localhost:9/", ReachError::NotPublic),
            ("http://there.is.no.such.host.invalid/", ReachError::NoAddress),
            ("https://user:password@example.com/", ReachError::NoHost),
            ("https:///x", ReachError::NoHost),
            ("/x", ReachError::NoHost),
        ] {
            assert_eq!(Reach::Public.check(url).await, Err(expected), "{url}");
        }
        assert_eq!(Reach::Public.check("https://1.1.1.1/hook").await, Ok(()));
        assert_eq!(Reach::Anywhere.check("http://localhost:9/").await, Ok(()));
    }
}
