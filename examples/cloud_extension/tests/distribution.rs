//! The distribution as its users see it: sign-up opens an account, plans limit, events are metered, the core goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cloud_extension::Cloud;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use wrenn_control::{Config, Server};
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost, wait_until};

const SOON: Duration = Duration::from_secs(30);
const PASSWORD: &str = "correct horse battery";

struct Person {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
    cookies: BTreeMap<String, String>,
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl Person {
    fn new(base: &str) -> Self {
        Self {
            base: base.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            cookies: BTreeMap::new(),
        }
    }

    async fn call(&mut self, method: Method, path: &str, body: Value) -> Answer {
        let cookies: Vec<_> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .header("cookie", cookies.join("; "))
            .header("x-csrf-token", self.cookies.get("wrenn_csrf").map_or("", String::as_str));
        let body = if body.is_null() { Full::default() } else { Full::from(body.to_string()) };
        let answer = self.client.request(request.body(body).expect("valid")).await.expect("an answer");
        for line in answer.headers().get_all("set-cookie") {
            let (name, value) = line.to_str().expect("text").split_once('=').expect("a pair");
            self.cookies.insert(name.to_owned(), value.split(';').next().unwrap_or_default().to_owned());
        }
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.expect("whole").to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.call(Method::GET, path, Value::Null).await
    }
}

struct World {
    base: String,
    mail: std::path::PathBuf,
    database: Database,
    _host: SimHost,
}

impl World {
    async fn start() -> Self {
        let (database, host) = (Database::empty().await, SimHost::start(Guest::None).await);
        let dir = std::env::temp_dir().join(format!("wrenn-cloud-{}", database.name));
        let mut settings = host.settings(&database);
        settings.insert("WRENN_DIR".to_owned(), dir.display().to_string());
        let config = Config::parse(&settings).expect("valid");
        let server =
            Server::builder().version("cloud-1.0.0").config(config).extension(Cloud).bind().await.expect("binds");
        let base = format!("http://{}", server.local_addr().expect("bound"));
        tokio::spawn(server.serve());
        let world = Self { base, mail: dir.join("mail"), database, _host: host };
        let mut anybody = Person::new(&world.base);
        wait_until("the tables are there", SOON, || async {
            sqlx::query("SELECT 1 FROM billing_accounts").execute(world.database.store().pool()).await.ok().map(|_| ())
        })
        .await;
        assert_eq!(anybody.get("/v1/billing/prices").await.status, 200);
        world
    }

    async fn activation(&self, email: &str) -> String {
        let body = json!({"email": email, "password": PASSWORD, "name": "Ann"});
        let signed = Person::new(&self.base).call(Method::POST, "/v1/auth/signup", body).await;
        assert_eq!(signed.status, 201, "{}", signed.body);
        wait_until("the mail", SOON, || async {
            std::fs::read_dir(&self.mail).ok()?.flatten().find_map(|entry| {
                let text = std::fs::read_to_string(entry.path()).ok()?;
                let text = text.replace("=\r\n", "").replace("=3D", "=");
                let found = text.contains(&format!("To: {email}")).then(|| text.split_once("?token=")).flatten()?;
                Some(found.1[..64].to_owned())
            })
        })
        .await
    }

    async fn person(&self, email: &str) -> Person {
        let token = self.activation(email).await;
        let mut person = Person::new(&self.base);
        let answer =
            person.call(Method::POST, "/v1/auth/activate", json!({"token": token, "password": PASSWORD})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        person
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.mail.parent().expect("a parent"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distribution_bills_limits_and_meters_without_a_change_to_the_core() {
    let world = World::start().await;
    let mut admin = world.person("admin@example.com").await;
    // As `wrenn-cp admin create` does.
    let made = sqlx::query("UPDATE users SET is_admin = true").execute(world.database.store().pool()).await;
    assert_eq!(made.expect("an admin").rows_affected(), 1);
    assert_eq!(admin.get("/health").await.body["version"], "cloud-1.0.0");
    assert_eq!(admin.get("/v1/me").await.headers["x-cloud-version"], "cloud-1.0.0");
    let mut ann = world.person("ann@example.com").await;
    assert_eq!(Person::new(&world.base).get("/v1/billing/account").await.status, 401);
    let account = ann.get("/v1/billing/account").await;
    assert_eq!(
        (account.body["email"].as_str(), account.body["sandboxes_max"].as_i64()),
        (Some("ann@example.com"), Some(2))
    );
    assert_eq!(ann.get("/v1/billing/limits").await.body["sandboxes_max"], 2);

    let create = async |person: &mut Person| person.call(Method::POST, "/v1/capsules", json!({})).await;
    wait_until("the host is known", SOON, || async {
        let mut probe = Person { cookies: ann.cookies.clone(), ..Person::new(&world.base) };
        (create(&mut probe).await.status == 202).then_some(())
    })
    .await;
    assert_eq!(create(&mut ann).await.status, 202);
    let refused = create(&mut ann).await;
    assert_eq!((refused.status, refused.body["error"]["code"].as_str()), (402, Some("concurrent_sandbox_limit")));

    let team = ann.get("/v1/me").await.body["team_id"].as_str().expect("a team").to_owned();
    let path = format!("/v1/billing/plans/{team}");
    assert_eq!(ann.call(Method::PUT, &path, json!({"sandboxes_max": 9})).await.status, 403);
    assert_eq!(admin.call(Method::PUT, &path, json!({"sandboxes_max": 3})).await.status, 204);
    wait_until("the mail of the distribution", SOON, || async {
        std::fs::read_dir(&world.mail).ok()?.flatten().find_map(|entry| {
            let text = std::fs::read_to_string(entry.path()).ok()?;
            (text.contains("Subject: Your plan was changed") && text.contains("To: ann@example.com")).then_some(())
        })
    })
    .await;
    assert_eq!(create(&mut ann).await.status, 202);
    wait_until("three are metered and counted", SOON, || async {
        let mut probe = Person { cookies: ann.cookies.clone(), ..Person::new(&world.base) };
        (probe.get("/v1/billing/account").await.body["created_total"] == 3).then_some(())
    })
    .await;

    let gone = ann.call(Method::DELETE, "/v1/me", json!({"confirmation": "ann@example.com"})).await;
    assert_eq!(gone.status, 204);
    wait_until("the account is closed", SOON, || async {
        let closed: i64 = sqlx::query_scalar("SELECT count(*) FROM billing_accounts WHERE closed_at IS NOT NULL")
            .fetch_one(world.database.store().pool())
            .await
            .expect("asked");
        (closed == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_the_distribution_refuses_leaves_no_account() {
    let world = World::start().await;
    let token = world.activation("eve@blocked.example.com").await;
    let mut eve = Person::new(&world.base);
    let refused = eve.call(Method::POST, "/v1/auth/activate", json!({"token": token})).await;
    assert_eq!((refused.status, refused.body["error"]["code"].as_str()), (500, Some("signup_hook_failed")));
    let login = json!({"email": "eve@blocked.example.com", "password": PASSWORD});
    assert_eq!(eve.call(Method::POST, "/v1/auth/login", login).await.status, 401);
    let accounts: i64 = sqlx::query_scalar("SELECT count(*) FROM billing_accounts")
        .fetch_one(world.database.store().pool())
        .await
        .expect("asked");
    assert_eq!(accounts, 0);
}
