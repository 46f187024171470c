//! Connections to hosts: plain, or TLS 1.3 with certificates of the installation's authority on both sides.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tower::Service;
use wrenn_domain::limits::CLIENT_CERTIFICATE_AGE_MAX;

use crate::ca::Ca;
use crate::sync::lock;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why no host could ever be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum FleetSetupError {
    #[error("WRENN_HOST_TOKEN cannot be sent in a header")]
    Token,
    #[error("WRENN_CA_CERT cannot be trusted by TLS")]
    Authority(#[source] rustls::Error),
}

/// Opens connections to hosts.
#[derive(Clone)]
pub(super) struct Connector {
    plain: HttpConnector,
    /// None: there is no authority, so no host can be believed.
    tls: Option<HttpsConnector<HttpConnector>>,
}

impl Connector {
    pub(super) fn new(ca: Option<Arc<Ca>>) -> Result<Self, FleetSetupError> {
        let mut plain = HttpConnector::new();
        plain.set_nodelay(true);
        plain.set_connect_timeout(Some(Duration::from_secs(3)));
        plain.set_keepalive(Some(Duration::from_secs(30)));
        plain.enforce_http(false);
        let tls = match ca {
            None => None,
            Some(ca) => {
                let builder = HttpsConnector::<HttpConnector>::builder().with_tls_config(config(ca)?);
                Some(builder.https_only().enable_http1().wrap_connector(plain.clone()))
            }
        };
        Ok(Self { plain, tls })
    }
}

fn config(ca: Arc<Ca>) -> Result<ClientConfig, FleetSetupError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).map_err(FleetSetupError::Authority)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(FleetSetupError::Authority)?;
    let ours = OurCertificate { ca, provider, newest: Mutex::new(None) };
    Ok(builder.with_root_certificates(roots).with_client_cert_resolver(Arc::new(ours)))
}

/// The control plane's own certificate, made anew when half its life is over.
#[derive(Debug)]
struct OurCertificate {
    ca: Arc<Ca>,
    provider: Arc<CryptoProvider>,
    newest: Mutex<Option<(Instant, Arc<CertifiedKey>)>>,
}

impl ResolvesClientCert for OurCertificate {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut newest = lock(&self.newest);
        if let Some((made, certified)) = newest.as_ref()
            && made.elapsed() < CLIENT_CERTIFICATE_AGE_MAX / 2
        {
            return Some(certified.clone());
        }
        let made = self.ca.issue_client().map_err(|error| error.to_string()).and_then(|issued| {
            let certified = CertifiedKey::from_der(vec![issued.certificate], issued.key, &self.provider);
            certified.map(Arc::new).map_err(|error| error.to_string())
        });
        match made {
            Ok(certified) => {
                *newest = Some((Instant::now(), certified.clone()));
                Some(certified)
            }
            Err(error) => {
                tracing::error!(error, "no certificate for the control plane can be made; hosts will refuse it");
                None
            }
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Wire, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if uri.scheme_str() != Some("https") {
            let mut plain = self.plain.clone();
            return Box::pin(async move { Ok(Wire::Plain(plain.call(uri).await?)) });
        }
        let Some(mut tls) = self.tls.clone() else {
            return Box::pin(std::future::ready(Err("the host speaks https, but WRENN_CA_CERT is not set".into())));
        };
        Box::pin(async move { Ok(Wire::Tls(Box::new(tls.call(uri).await?))) })
    }
}

/// One connection. Boxed where it is large: most are plain, and there are many.
pub(super) enum Wire {
    Plain(TokioIo<TcpStream>),
    Tls(Box<MaybeHttpsStream<TokioIo<TcpStream>>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(wire) => wire.connected(),
            Self::Tls(wire) => wire.connected(),
        }
    }
}

impl Read for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(wire) => Pin::new(wire).poll_read(cx, into),
            Self::Tls(wire) => Pin::new(wire).poll_read(cx, into),
        }
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(wire) => Pin::new(wire).poll_write(cx, from),
            Self::Tls(wire) => Pin::new(wire).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(wire) => Pin::new(wire).poll_flush(cx),
            Self::Tls(wire) => Pin::new(wire).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(wire) => Pin::new(wire).poll_shutdown(cx),
            Self::Tls(wire) => Pin::new(wire).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(wire) => wire.is_write_vectored(),
            Self::Tls(wire) => wire.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(wire) => Pin::new(wire).poll_write_vectored(cx, from),
            Self::Tls(wire) => Pin::new(wire).poll_write_vectored(cx, from),
        }
    }
}
