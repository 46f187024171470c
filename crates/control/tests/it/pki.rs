//! A certificate authority for tests, as an admin makes one, and a TLS door in front of a server that speaks plainly.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// An authority.
pub struct Authority {
    pub cert_pem: String,
    pub key_pem: String,
    cert: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A server's certificate and key.
pub struct ServerPair {
    pub cert_pem: String,
    pub key_pem: String,
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let cert = params.self_signed(&key).expect("signed");
        let (cert_pem, key_pem) = (cert.pem(), key.serialize_pem());
        Self { cert_pem, key_pem, cert: cert.into(), issuer: Issuer::new(params, key) }
    }

    pub fn server(&self, name: &str) -> ServerPair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        ServerPair {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            cert: cert.into(),
        }
    }
}

/// TLS in front of a plain server; it demands a certificate of `clients` and keeps what it was shown.
pub struct TlsDoor {
    pub addr: SocketAddr,
    pub shown: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

impl TlsDoor {
    pub async fn before(
        target: String,
        own: ServerPair,
        clients: &Authority,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(clients.cert.clone()).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(vec![own.cert], own.key)
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (addr, shown) = (listener.local_addr().expect("bound"), Arc::new(Mutex::new(Vec::new())));
        let seen = shown.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, target, seen) = (acceptor.clone(), target.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let certs = stream.get_ref().1.peer_certificates().unwrap_or_default();
                    seen.lock().expect("whole").extend(certs.first().map(|cert| cert.clone().into_owned()));
                    let mut behind = TcpStream::connect(target).await.expect("the server");
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self { addr, shown }
    }

    /// `https://localhost:...`
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.addr.port())
    }
}
