//! Hosts behind TLS: both sides show certificates of the installation's authority.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use wrenn_control::Extension;
use wrenn_control::ca::Ca;
use wrenn_control::extension::ServerContext;
use wrenn_control::fleet::{Fleet, FleetError};
use wrenn_testkit::SimHost;
use wrenn_testkit::host::{Guest, TOKEN, find_envd};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::harness::{World, host_is_known, new_key, settings};
use crate::pki::{Authority, TlsDoor};

/// A distribution's part that hands the authority's certificate out, as one that registers hosts would.
struct ShowsAuthority;

impl Extension for ShowsAuthority {
    fn name(&self) -> &str {
        "shows-authority"
    }

    fn routes(&self, ctx: &ServerContext) -> Router {
        let certificate = ctx.ca().map(|ca| ca.certificate().to_vec());
        Router::new().route("/ext/authority", get(move || ready(certificate.clone().ok_or(StatusCode::NOT_FOUND))))
    }
}

fn behind(host: &SimHost) -> String {
    host.url().trim_start_matches("http://").to_owned()
}

#[tokio::test]
async fn a_host_with_an_https_address_is_spoken_to_over_mutual_tls_only() {
    let found = find_envd().ok_or("build it with `cargo build -p wrenn-envd`, or set WRENN_TEST_ENVD");
    let Some(envd) = wrenn_testkit::skip::require("envd", found) else { return };
    let authority = Authority::new();
    let host = SimHost::start(Guest::Envd(envd)).await;
    let door = TlsDoor::before(behind(&host), authority.server("localhost"), &authority, &[&TLS13]).await;
    let database = wrenn_testkit::Database::fresh().await;
    let mut values = settings(&database.url, &database, &host);
    for (name, value) in [
        ("CP_HOST_AGENT_ADDR", door.url()),
        ("WRENN_CA_CERT", authority.cert_pem.clone()),
        ("WRENN_CA_KEY", authority.key_pem.clone()),
    ] {
        values.insert(name.to_owned(), value);
    }
    let config = wrenn_control::Config::parse(&values).expect("valid");
    let plane = crate::harness::Plane::launch(config, |builder| builder.extension(ShowsAuthority)).await;
    let key = new_key(&database, "team").await;
    let api = plane.api(&key);
    host_is_known(&database).await;
    let world = World { database, host, plane, api, key };
    let id = world.api.create_running().await;
    // Through the relay and its streams too.
    let ran = world
        .api
        .post(&format!("/v1/capsules/{id}/exec"), serde_json::json!({"cmd": "/bin/echo", "args": ["hi"]}))
        .await;
    assert_eq!((ran.status.as_u16(), ran.json()["stdout"].as_str()), (200, Some("hi\n")), "{:?}", ran.body);
    let told = world.api.get("/ext/authority").await;
    let ours = CertificateDer::from_pem_slice(authority.cert_pem.as_bytes()).expect("PEM");
    assert_eq!((told.status.as_u16(), &told.body[..]), (200, &ours[..]));
    let shown = door.shown.lock().expect("whole").clone();
    assert!(!shown.is_empty());
    let (_, certificate) = X509Certificate::from_der(&shown[0]).expect("a certificate");
    assert_eq!(certificate.subject().to_string(), "CN=wrenn-cp");
    assert!(shown.iter().all(|other| *other == shown[0]), "one certificate serves for half a day");
}

#[tokio::test]
async fn a_host_that_cannot_prove_itself_is_not_spoken_to() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let host = SimHost::start(Guest::None).await;
    let ca = Arc::new(Ca::new(&ours.cert_pem, &ours.key_pem).expect("an authority"));
    let fleet = Fleet::new(Some(TOKEN), Some(ca), Duration::from_secs(10)).expect("a fleet");
    let ask = async |url: &str| fleet.host(url).expect("an address").get_host().await;
    let good = TlsDoor::before(behind(&host), ours.server("localhost"), &ours, &[&TLS13]).await;
    ask(&good.url()).await.expect("an answer");
    ask(&host.url()).await.expect("plain http stays possible");
    for (what, own, clients, version) in [
        ("another authority", theirs.server("localhost"), &ours, &TLS13),
        ("another name", ours.server("other.example.com"), &ours, &TLS13),
        ("it does not believe us", ours.server("localhost"), &theirs, &TLS13),
        ("an old protocol", ours.server("localhost"), &ours, &TLS12),
    ] {
        let door = TlsDoor::before(behind(&host), own, clients, &[version]).await;
        let error = ask(&door.url()).await.expect_err(what);
        assert!(matches!(error, FleetError::Unreachable(_)), "{what}: {error:?}");
        assert!(door.shown.lock().expect("whole").is_empty(), "{what}: nothing was said");
    }
    let plain = host.url().replace("http://", "https://");
    assert!(matches!(ask(&plain).await, Err(FleetError::Unreachable(_))));
    let without = Fleet::new(Some(TOKEN), None, Duration::from_secs(10)).expect("a fleet");
    let error = without.host(&good.url()).expect("an address").get_host().await;
    assert!(matches!(error, Err(FleetError::Unreachable(_))), "{error:?}");
}
