//! The certificate authority of an installation: who may speak to hosts, and later which hosts are ours.
//!
//! Owns the CA's key, in memory only; it is shown nowhere. WRENN_CA_CERT and WRENN_CA_KEY bring it.

use std::fmt;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use wrenn_domain::limits::CLIENT_CERTIFICATE_AGE_MAX;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// Name of the control plane's own certificate; agents look for it.
pub const CLIENT_NAME: &str = "wrenn-cp";
/// Clocks of hosts may be a little behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A certificate with its key.
pub struct Issued {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

/// Why a pair is no authority, or could not be used as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    #[error("is no certificate in PEM form")]
    NoCertificate,
    #[error("is a certificate that may not sign others (basicConstraints CA, keyUsage keyCertSign)")]
    NotACa,
    #[error("is a certificate that is over, or not valid yet")]
    NotNow,
    #[error("is no private key in PEM form (PKCS #8: `openssl pkcs8 -topk8 -nocrypt` makes one of other forms)")]
    NoKey,
    #[error("is not the key of WRENN_CA_CERT")]
    OtherKey,
    #[error("cannot sign")]
    Sign,
}

impl CaError {
    /// Whether the error is about the key, not the certificate.
    pub fn is_of_key(self) -> bool {
        matches!(self, Self::NoKey | Self::OtherKey)
    }
}

impl Ca {
    /// An authority from its PEM texts.
    ///
    /// # Errors
    /// When one of the texts is not what it should be, or the two do not belong together.
    pub fn new(certificate: &str, key: &str) -> Result<Self, CaError> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| CaError::NoCertificate)?;
        let (_, read) =
            x509_parser::certificate::X509Certificate::from_der(&certificate).map_err(|_| CaError::NoCertificate)?;
        let may_sign = read.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
        if !read.is_ca() || !may_sign {
            return Err(CaError::NotACa);
        }
        if !read.validity().is_valid() {
            return Err(CaError::NotNow);
        }
        let key = KeyPair::from_pem(key).map_err(|_| CaError::NoKey)?;
        if read.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CaError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| CaError::NoCertificate)?;
        Ok(Self { issuer, certificate })
    }

    /// The authority's own certificate, for those who are to trust it.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate by which hosts know the control plane, for a day, with a key of its own (P-256).
    ///
    /// # Errors
    /// When no key can be made or the certificate cannot be signed.
    pub fn issue_client(&self) -> Result<Issued, CaError> {
        let key = KeyPair::generate().map_err(|_| CaError::Sign)?;
        let mut params = CertificateParams::default();
        let now = ASN1Time::now().to_datetime();
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + CLIENT_CERTIFICATE_AGE_MAX;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, CLIENT_NAME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|_| CaError::Sign)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok(Issued { certificate: certificate.into(), key })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ca(...)")
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issued(...)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, IsCa};
    use rustls::RootCertStore;
    use rustls::pki_types::UnixTime;
    use rustls::server::WebPkiClientVerifier;
    use rustls::server::danger::ClientCertVerifier;
    use x509_parser::certificate::X509Certificate;

    use super::*;

    fn authority(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
    }

    fn verifier(ca: &Ca) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a verifier")
    }

    #[test]
    fn its_client_certificates_are_verified_for_a_day_and_by_no_other_authority() {
        let pair = authority(|_| {});
        let ca = Ca::new(&pair.0, &pair.1).expect("an authority");
        let issued = ca.issue_client().expect("issued");
        let at = |offset: i64| UnixTime::since_unix_epoch(Duration::from_secs((now() + offset) as u64));
        let verified = |ca: &Ca, offset| verifier(ca).verify_client_cert(&issued.certificate, &[], at(offset)).is_ok();
        assert!(verified(&ca, 0) && verified(&ca, -30) && verified(&ca, 24 * 3600 - 60));
        assert!(!verified(&ca, -3600) && !verified(&ca, 24 * 3600 + 60));
        let other = authority(|_| {});
        assert!(!verified(&Ca::new(&other.0, &other.1).expect("another"), 0));
        let (_, read) = X509Certificate::from_der(&issued.certificate).expect("a certificate");
        assert_eq!(read.subject().to_string(), "CN=wrenn-cp");
        let usage = read.extended_key_usage().expect("readable").expect("there").value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any && !read.is_ca());
        assert!(read.raw_serial().len() >= 16, "a serial nobody guesses");
        let (_, next) = (read, ca.issue_client().expect("issued"));
        assert_ne!(issued.key, next.key, "a key of its own each time");
        assert_eq!(format!("{ca:?} {issued:?}"), "Ca(...) Issued(...)");
    }

    fn now() -> i64 {
        ASN1Time::now().timestamp()
    }

    #[test]
    fn a_pair_that_is_no_authority_is_refused_by_what_is_wrong_with_it() {
        let (cert, key) = authority(|_| {});
        let refused = |cert: &str, key: &str| Ca::new(cert, key).expect_err("refused");
        assert_eq!(refused("", &key), CaError::NoCertificate);
        assert_eq!(refused(&key, &key), CaError::NoCertificate);
        assert_eq!(refused(&cert.replace("MII", "AAA"), &key), CaError::NoCertificate);
        assert_eq!(refused(&cert, ""), CaError::NoKey);
        assert_eq!(refused(&cert, &cert), CaError::NoKey);
        assert_eq!(refused(&cert, &authority(|_| {}).1), CaError::OtherKey);
        let refuse = |change: fn(&mut CertificateParams)| {
            let (cert, key) = authority(change);
            refused(&cert, &key)
        };
        assert_eq!(refuse(|params| params.is_ca = IsCa::NoCa), CaError::NotACa);
        assert_eq!(refuse(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]), CaError::NotACa);
        assert_eq!(refuse(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)), CaError::NotNow);
        assert_eq!(refuse(|params| params.not_before = rcgen::date_time_ymd(3020, 1, 1)), CaError::NotNow);
    }
}
