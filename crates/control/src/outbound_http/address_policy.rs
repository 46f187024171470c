//! Which addresses may be called on somebody else's word. A user's URL must not lead to what only this machine or its network can
//! reach, and a name may point elsewhere tomorrow: so every connection is judged by the address it is about to be made to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::vec;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower::Service;
use wrenn_domain::limits::SITE_CONNECT_MAX;
use wrenn_domain::network::is_public;

/// Whom a client may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPolicy {
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

impl AddressPolicy {
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
    ///
    /// # Errors
    /// When it is no URL of a host, its name cannot be resolved, or the policy does not admit its address.
    pub async fn check(self, url: &str) -> Result<(), ReachError> {
        let uri: Uri = url.parse().map_err(|_| ReachError::NoHost)?;
        let authority =
            uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(ReachError::NoHost)?;
        self.check_literal(&uri)?;
        if self == Self::Anywhere || literal(&uri).is_some() {
            return Ok(());
        }
        let name: Name = authority.host().parse().map_err(|_| ReachError::NoHost)?;
        match tokio::time::timeout(SITE_CONNECT_MAX, Resolver::new(self).call(name)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ReachError::inside(&error).unwrap_or(ReachError::NoAddress)),
            Err(_) => Err(ReachError::NoAddress),
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
    reach: AddressPolicy,
}

impl Resolver {
    pub(super) fn new(reach: AddressPolicy) -> Self {
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
            assert_eq!(AddressPolicy::Public.check(url).await, Err(expected), "{url}");
        }
        assert_eq!(AddressPolicy::Public.check("https://1.1.1.1/hook").await, Ok(()));
        assert_eq!(AddressPolicy::Anywhere.check("http://localhost:9/").await, Ok(()));
    }
}
