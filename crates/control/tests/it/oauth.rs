//! Logins by another site, against a site of our own on loopback.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use http::HeaderMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wrenn_control::Extension;
use wrenn_control::extension::{BoxFuture, OAuthProvider, ServerContext};
use wrenn_control::oauth::{AuthorizeRequest, CodeGrant, OAuthError, Profile};

use crate::harness::Answer;
use crate::people::{Browser, House};

#[derive(Default)]
struct SiteState {
    /// Code challenge of the person who was sent here last.
    challenge: String,
    id: u64,
    email: Value,
    verified: bool,
    broken: bool,
    redeemed: Vec<String>,
}

/// A stand-in for GitHub that keeps its rules: PKCE, one use of a code, a list of confirmed addresses.
#[derive(Clone, Default)]
struct Site(Arc<Mutex<SiteState>>);

impl Site {
    async fn start() -> (Self, String) {
        let site = Self::default();
        site.is(7, "ann@example.com");
        let app = Router::new()
            .route("/login/oauth/access_token", post(token))
            .route("/user", get(user))
            .route("/user/emails", get(emails))
            .with_state(site.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (site, url)
    }

    /// Who is logged in at the site.
    fn is(&self, id: u64, email: &str) {
        let mut state = self.0.lock().expect("whole");
        state.id = id;
        state.email = json!(email);
        state.verified = true;
    }

    fn change(&self, change: impl FnOnce(&mut SiteState)) {
        change(&mut self.0.lock().expect("whole"));
    }
}

async fn token(State(site): State<Site>, form: String) -> Json<Value> {
    // The values looked at here need no escapes.
    let field = |name: &str| {
        let found = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().to_owned()
    };
    let mut state = site.0.lock().expect("whole");
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(field("code_verifier").as_bytes()));
    let code = field("code");
    let good = code.starts_with("good")
        && challenge == state.challenge
        && field("client_secret") == "secret"
        && !state.redeemed.contains(&code)
        && !state.broken;
    state.redeemed.push(code);
    Json(if good {
        json!({"access_token": "token", "token_type": "bearer"})
    } else {
        json!({"error": "bad_verification_code"})
    })
}

fn authorized(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|v| v == "Bearer token")
}

async fn user(State(site): State<Site>, headers: HeaderMap) -> Json<Value> {
    assert!(authorized(&headers));
    let state = site.0.lock().expect("whole");
    Json(json!({"id": state.id, "login": "ann-gh", "name": "Ann <GitHub>", "email": "unconfirmed@example.com"}))
}

async fn emails(State(site): State<Site>, headers: HeaderMap) -> Json<Value> {
    assert!(authorized(&headers));
    let state = site.0.lock().expect("whole");
    Json(json!([
        {"email": "old@example.com", "primary": false, "verified": true},
        {"email": state.email, "primary": true, "verified": state.verified},
    ]))
}

async fn house() -> (House, Site) {
    let (site, url) = Site::start().await;
    let settings = [
        ("OAUTH_GITHUB_CLIENT_ID", "client"),
        ("OAUTH_GITHUB_CLIENT_SECRET", "secret"),
        ("OAUTH_GITHUB_BASE_URL", url.as_str()),
        ("OAUTH_GITHUB_API_URL", url.as_str()),
        ("CP_PUBLIC_URL", "http://wrenn.test"),
        ("OAUTH_REDIRECT_URL", "http://app.test"),
    ];
    (House::with(&settings, |builder| builder).await, site)
}

fn param(url: &str, name: &str) -> String {
    let (_, query) = url.split_once('?').expect("a query");
    let found = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    found.unwrap_or_else(|| panic!("no {name} in {url}")).to_owned()
}

fn place(answer: &Answer) -> String {
    assert_eq!(answer.status, 302, "{:?}", answer.body);
    answer.headers["location"].to_str().expect("text").to_owned()
}

/// Sends the browser to the site; answers the state.
async fn leave(browser: &mut Browser, site: &Site, intent: &str) -> String {
    let url = place(&browser.visit(&format!("/auth/oauth/github?intent={intent}")).await);
    assert!(url.contains("/login/oauth/authorize?client_id=client&"), "{url}");
    assert!(url.contains("redirect_uri=http%3A%2F%2Fwrenn.test%2Fauth%2Foauth%2Fgithub%2Fcallback"), "{url}");
    assert_eq!(param(&url, "code_challenge_method"), "S256");
    site.change(|state| state.challenge = param(&url, "code_challenge"));
    param(&url, "state")
}

async fn come_back(browser: &mut Browser, code: &str, state: &str) -> String {
    place(&browser.visit(&format!("/auth/oauth/github/callback?code={code}&state={state}")).await)
}

async fn round_trip(browser: &mut Browser, site: &Site, intent: &str, code: &str) -> String {
    let state = leave(browser, site, intent).await;
    come_back(browser, code, &state).await
}

const HOME: &str = "http://app.test/auth/github/callback";

#[tokio::test]
async fn a_stranger_signs_up_and_logs_in_again() {
    let (house, site) = house().await;
    let mut browser = house.browser();
    assert_eq!(round_trip(&mut browser, &site, "login", "good1").await, format!("{HOME}?error=no_account"));
    assert_eq!(round_trip(&mut browser, &site, "signup", "good2").await, HOME);
    assert_eq!(browser.cookies["wrenn_oauth_new_signup"], "1");
    assert!(!browser.cookies.contains_key("wrenn_oauth"), "taken back");
    let me = browser.get("/v1/me").await.json();
    assert_eq!((me["email"].as_str(), me["name"].as_str()), (Some("ann@example.com"), Some("Ann GitHub")));
    assert_eq!(
        (&me["providers"], &me["has_password"], &me["role"]),
        (&json!(["github"]), &json!(false), &json!("owner"))
    );
    let mut again = house.browser();
    assert_eq!(round_trip(&mut again, &site, "login", "good3").await, HOME);
    assert_eq!(again.get("/v1/me").await.json()["user_id"], me["user_id"]);
    assert!(!again.cookies.contains_key("wrenn_oauth_new_signup"));
    house.sql("UPDATE users SET status = 'disabled'").await;
    let mut shut = house.browser();
    assert_eq!(round_trip(&mut shut, &site, "login", "good4").await, format!("{HOME}?error=account_deactivated"));
    assert!(!shut.cookies.contains_key("wrenn_sid"));
}

#[tokio::test]
async fn an_address_alone_takes_no_account_over() {
    let (house, site) = house().await;
    house.person("ann@example.com").await;
    let mut browser = house.browser();
    for intent in ["login", "signup"] {
        let code = format!("good-{intent}");
        assert_eq!(round_trip(&mut browser, &site, intent, &code).await, format!("{HOME}?error=email_taken"));
    }
    site.change(|state| state.verified = false);
    assert_eq!(round_trip(&mut browser, &site, "signup", "good-u").await, format!("{HOME}?error=invalid_email"));
    assert!(!browser.cookies.contains_key("wrenn_sid"));
}

#[tokio::test]
async fn an_unconfirmed_sign_up_gives_way_with_its_password() {
    let (house, site) = house().await;
    // Somebody signed up with the victim's address and waits for the victim to confirm it.
    let token = house.pending("ann@example.com").await;
    let mut victim = house.browser();
    assert_eq!(round_trip(&mut victim, &site, "signup", "good1").await, HOME);
    assert_eq!(victim.get("/v1/me").await.json()["has_password"], false);
    house.browser().post("/v1/auth/activate", json!({"token": token})).await.is_error(400, "invalid_request");
}

#[tokio::test]
async fn a_state_is_good_once_in_its_own_browser_only() {
    let (house, site) = house().await;
    let mut eve = house.browser();
    let state = leave(&mut eve, &site, "signup").await;
    let mut victim = house.browser();
    let failed = format!("{HOME}?error=invalid_state");
    assert_eq!(come_back(&mut victim, "good1", &state).await, failed, "no cookie");
    leave(&mut victim, &site, "signup").await;
    assert_eq!(come_back(&mut victim, "good1", &state).await, failed, "another browser's state");
    for forged in ["", "zz", &"0".repeat(64)] {
        assert_eq!(come_back(&mut victim, "good1", forged).await, failed, "{forged}");
    }
    assert!(!victim.cookies.contains_key("wrenn_sid"));
    let mut twice = house.browser();
    let state = leave(&mut twice, &site, "signup").await;
    let kept = twice.clone();
    assert_eq!(come_back(&mut twice, "good2", &state).await, HOME);
    assert_eq!(come_back(&mut kept.clone(), "good3", &state).await, failed, "used");
    let mut late = house.browser();
    let state = leave(&mut late, &site, "login").await;
    house.sql("UPDATE oauth_states SET expires_at = now()").await;
    assert_eq!(come_back(&mut late, "good4", &state).await, failed, "too late");
}

#[tokio::test]
async fn what_goes_wrong_at_the_site_is_a_word_for_the_frontend() {
    let (house, site) = house().await;
    let mut browser = house.browser();
    let state = leave(&mut browser, &site, "signup").await;
    let denied = browser.visit(&format!("/auth/oauth/github/callback?error=access_denied&state={state}")).await;
    assert_eq!(place(&denied), format!("{HOME}?error=access_denied"));
    let state = leave(&mut browser, &site, "signup").await;
    let empty = browser.visit(&format!("/auth/oauth/github/callback?state={state}")).await;
    assert_eq!(place(&empty), format!("{HOME}?error=missing_code"));
    assert_eq!(round_trip(&mut browser, &site, "signup", "bad").await, format!("{HOME}?error=exchange_failed"));
    let state = leave(&mut browser, &site, "signup").await;
    site.change(|state| state.challenge = "another".to_owned());
    assert_eq!(come_back(&mut browser, "good1", &state).await, format!("{HOME}?error=exchange_failed"), "PKCE");
    browser.visit("/auth/oauth/nowhere").await.is_error(404, "not_found");
    browser.visit("/auth/oauth/nowhere/callback").await.is_error(404, "not_found");
    browser.visit("/auth/oauth/github?intent=link").await.is_error(400, "invalid_request");
}

#[tokio::test]
async fn an_account_is_linked_by_its_own_session_and_unlinked_while_another_way_leads_in() {
    let (house, site) = house().await;
    let mut ann = house.person("ann@example.com").await;
    site.is(9, "elsewhere@example.com");
    let connect = async |browser: &mut Browser| {
        let answer = browser.visit("/v1/me/providers/github/connect").await;
        let url = answer.json()["auth_url"].as_str().expect("a URL").to_owned();
        site.change(|state| state.challenge = param(&url, "code_challenge"));
        param(&url, "state")
    };
    ann.get("/v1/me/providers/nowhere/connect").await.is_error(404, "not_found");
    let state = connect(&mut ann).await;
    // The site sends the browser back across sites: the strict session cookie stays at home.
    let mut back = ann.clone();
    back.cookies.retain(|name, _| name == "wrenn_oauth");
    assert_eq!(come_back(&mut back, "good1", &state).await, "http://app.test/dashboard/settings?connected=github");
    assert_eq!(ann.get("/v1/me").await.json()["providers"], json!(["github"]));
    let mut login = house.browser();
    assert_eq!(round_trip(&mut login, &site, "login", "good2").await, HOME);
    assert_eq!(login.get("/v1/me").await.json()["email"], "ann@example.com");
    let mut bob = house.person("bob@example.com").await;
    let state = connect(&mut bob).await;
    let taken = come_back(&mut bob, "good3", &state).await;
    assert_eq!(taken, "http://app.test/dashboard/settings?connect_error=already_linked");
    // A link whose session ended meanwhile links nothing.
    let state = connect(&mut bob).await;
    let mut gone = bob.clone();
    assert_eq!(bob.post("/v1/auth/logout", json!({})).await.status, 204);
    site.is(10, "ten@example.com");
    let late = come_back(&mut gone, "good4", &state).await;
    assert_eq!(late, "http://app.test/dashboard/settings?connect_error=invalid_state");
    house.sql("UPDATE users SET password_hash = NULL WHERE email = 'ann@example.com'").await;
    ann.delete("/v1/me/providers/github").await.is_error(400, "invalid_request");
    house.sql("UPDATE users SET password_hash = 'x' WHERE email = 'ann@example.com'").await;
    assert_eq!(ann.delete("/v1/me/providers/github").await.status, 204);
    ann.delete("/v1/me/providers/github").await.is_error(404, "not_found");
}

/// A site a distribution brings.
struct Acme;

impl OAuthProvider for Acme {
    fn name(&self) -> &str {
        "acme"
    }

    fn authorize_url(&self, request: &AuthorizeRequest) -> String {
        format!("https://acme.test/in?state={}&challenge={}", request.state, request.code_challenge)
    }

    fn identify<'a>(&'a self, grant: &'a CodeGrant) -> BoxFuture<'a, Result<Profile, OAuthError>> {
        let email = format!("{}@acme.test", grant.code);
        async move { Ok(Profile { id: email.clone(), verified_email: Some(email), name: "Ann".to_owned() }) }.boxed()
    }
}

struct WithAcme;

impl Extension for WithAcme {
    fn name(&self) -> &str {
        "acme"
    }

    fn oauth_providers(&self, _ctx: &ServerContext) -> Vec<Arc<dyn OAuthProvider>> {
        vec![Arc::new(Acme)]
    }
}

#[tokio::test]
async fn a_site_of_a_distribution_is_one_entry() {
    let house = House::with(&[], |builder| builder.extension(WithAcme)).await;
    let mut ann = house.browser();
    let url = place(&ann.visit("/auth/oauth/acme?intent=signup").await);
    assert!(url.starts_with("https://acme.test/in?state="), "{url}");
    let back = ann.visit(&format!("/auth/oauth/acme/callback?code=ann&state={}", param(&url, "state"))).await;
    assert!(!place(&back).contains("error="), "{back:?}");
    let me = ann.get("/v1/me").await.json();
    assert_eq!((me["email"].as_str(), &me["providers"]), (Some("ann@acme.test"), &json!(["acme"])));
}

#[tokio::test]
async fn leaving_for_a_site_and_coming_back_is_limited_per_address() {
    let (house, _) = house().await;
    let mut browser = house.browser();
    let mut passed = 0;
    let limited = loop {
        let answer = browser.visit("/auth/oauth/github?intent=login").await;
        if answer.status == 429 {
            break answer;
        }
        passed += 1;
        assert!(passed < 60, "nothing stops it");
    };
    assert!(passed >= 30, "{passed}");
    limited.is_error(429, "rate_limited");
    assert!(limited.headers.contains_key("retry-after"));
    browser.visit("/auth/oauth/github/callback?code=x&state=y").await.is_error(429, "rate_limited");
}
