//! The program wrenn-cp itself: its commands, its settings, kill -9.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use wrenn_testkit::host::{Guest, TOKEN};
use wrenn_testkit::smtp::{MailServer, MailServerKind};
use wrenn_testkit::{Database, SimHost, wait_until};

use crate::harness::{Api, SOON, host_is_known};
use crate::people::PASSWORD;
use crate::pki::Authority;

pub fn program(database: &Database, host: &SimHost, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wrenn-cp"));
    command
        .env_clear()
        .env("DATABASE_URL", &database.url)
        .env("REDIS_URL", &database.redis_url)
        .env("WRENN_REDIS_PREFIX", &database.redis_prefix)
        .env("WRENN_CP_LISTEN_ADDR", listen)
        .env("CP_HOST_AGENT_ADDR", host.url())
        .env("WRENN_HOST_TOKEN", TOKEN)
        .env("WRENN_SIGNUP", "open")
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub fn free_port() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").to_string()
}

pub async fn output(mut command: Command) -> Output {
    tokio::time::timeout(SOON, command.output()).await.expect("in time").expect("starts")
}

pub fn serve(database: &Database, host: &SimHost, listen: &str) -> Child {
    let mut command = program(database, host, listen);
    command.stderr(Stdio::null()).spawn().expect("starts")
}

pub async fn key(database: &Database, host: &SimHost) -> String {
    let mut command = program(database, host, ":0");
    command.args(["key", "create", "--team", "dev", "--name", "laptop", "--json"]);
    let made = output(command).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let shown: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert!(shown["id"].as_str().is_some_and(|id| id.starts_with("key-")), "{shown}");
    shown["key"].as_str().expect("the key").to_owned()
}

#[tokio::test]
async fn a_kill_at_the_hardest_loses_nothing() {
    let database = Database::empty().await;
    let host = SimHost::start(Guest::None).await;
    let key = key(&database, &host).await;
    let listen = free_port();
    let mut child = serve(&database, &host, &listen);
    let api = Api::at(&listen, &key);
    wait_until("it answers", SOON, || async { api.try_get("/health").await.filter(|a| a.status == 200).map(|_| ()) })
        .await;
    host_is_known(&database).await;
    host.behave(|b| b.hold_starts = true);
    let ids = futures::future::join_all((0..5).map(|_| api.create())).await;
    child.kill().await.expect("killed");
    host.release_starts();
    let _second = serve(&database, &host, &listen);
    wait_until("it answers", SOON, || async { api.try_get("/health").await.filter(|a| a.status == 200).map(|_| ()) })
        .await;
    let api = Api::at(&listen, &key);
    for id in &ids {
        api.wait_status(id, "running").await;
    }
}

#[tokio::test]
async fn it_ends_on_sigterm_with_success() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let listen = free_port();
    let mut child = serve(&database, &host, &listen);
    let api = Api::at(&listen, "");
    wait_until("it answers", SOON, || async { api.try_get("/health").await.map(|_| ()) }).await;
    let pid = child.id().expect("runs").to_string();
    std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill");
    let ended = tokio::time::timeout(SOON, child.wait()).await.expect("in time").expect("reaped");
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_and_the_secret_is_shown_once() {
    let database = Database::empty().await;
    let host = SimHost::start(Guest::None).await;
    let key = key(&database, &host).await;
    let mut list = program(&database, &host, ":0");
    list.args(["key", "list"]);
    let listed = String::from_utf8(output(list).await.stdout).expect("UTF-8");
    assert!(listed.contains("laptop") && listed.contains(&key[..10]) && !listed.contains(&key), "{listed}");
    let id = listed.split(' ').next().expect("an id").to_owned();
    for (id, works) in
        [("key-x", false), ("key-0000000000000000000000000", false), (id.as_str(), true), (id.as_str(), true)]
    {
        let mut revoke = program(&database, &host, ":0");
        revoke.args(["key", "revoke", id]);
        assert_eq!(output(revoke).await.status.success(), works, "{id}");
    }
}

#[tokio::test]
async fn a_bad_setting_ends_it_with_a_sentence_that_names_it() {
    let database = Database::empty().await;
    let host = SimHost::start(Guest::None).await;
    for (variable, value) in [("LOG_LEVEL", "loud"), ("WRENN_CP_LISTEN_ADDR", "nowhere"), ("DATABASE_URL", "x")] {
        let mut command = program(&database, &host, ":0");
        command.env(variable, value);
        let ended = output(command).await;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(variable) && said.contains("it takes"), "{said}");
        assert!(!said.contains(TOKEN), "{said}");
    }
    let mut taken = program(&database, &host, &host.url().replace("http://", ""));
    taken.stdout(Stdio::piped());
    let said = String::from_utf8_lossy(&output(taken).await.stderr).into_owned();
    assert!(said.contains("WRENN_CP_LISTEN_ADDR"), "{said}");
}

#[tokio::test]
async fn half_a_certificate_authority_or_a_wrong_one_ends_it_and_its_key_is_not_told() {
    let database = Database::empty().await;
    let host = SimHost::start(Guest::None).await;
    let (ours, other) = (Authority::new(), Authority::new());
    let leaf = ours.server("localhost");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("key.pem");
    std::fs::write(&file, &other.key_pem).expect("written");
    let file = file.to_str().expect("text");
    for (cert, key, named) in [
        (ours.cert_pem.as_str(), "", "WRENN_CA_CERT"),
        ("", ours.key_pem.as_str(), "WRENN_CA_KEY"),
        (ours.cert_pem.as_str(), other.key_pem.as_str(), "WRENN_CA_KEY"),
        (ours.cert_pem.as_str(), file, "WRENN_CA_KEY"),
        (leaf.cert_pem.as_str(), leaf.key_pem.as_str(), "WRENN_CA_CERT"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", ours.key_pem.as_str(), "WRENN_CA_CERT"),
    ] {
        let mut command = program(&database, &host, ":0");
        command.env("WRENN_CA_CERT", cert).env("WRENN_CA_KEY", key);
        let ended = output(command).await;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(named) && said.contains("it takes"), "{said}");
        for key in [&ours, &other].map(|pair| pair.key_pem.lines().nth(1).expect("a line").to_owned()) {
            assert!(!said.contains(&key), "{said}");
        }
    }
}

#[tokio::test]
async fn without_an_authority_it_says_once_that_hosts_are_spoken_to_plainly() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let listen = free_port();
    let mut child = program(&database, &host, &listen).spawn().expect("starts");
    let api = Api::at(&listen, "");
    wait_until("it answers", SOON, || async { api.try_get("/health").await.map(|_| ()) }).await;
    let pid = child.id().expect("runs").to_string();
    std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill");
    let mut said = String::new();
    let mut stderr = child.stderr.take().expect("piped");
    tokio::time::timeout(SOON, stderr.read_to_string(&mut said)).await.expect("in time").expect("text");
    assert_eq!(said.matches("WRENN_CA_CERT").count(), 1, "{said}");
}

/// Mails of a control plane that must log in to its mail server, over TLS.
#[tokio::test]
async fn mails_go_to_the_server_over_starttls_with_a_login_or_not_at_all() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let dir = tempfile::tempdir().expect("a directory");
    let (authority, path) = (Authority::new(), |name: &str| dir.path().join(name));
    let pair = authority.server("localhost");
    for (name, text) in [("ca", &authority.cert_pem), ("cert", &pair.cert_pem), ("key", &pair.key_pem)] {
        std::fs::write(path(name), text).expect("written");
    }
    let (cert, key) = (path("cert"), path("key"));
    let login = Some(("wrenn", "correct horse"));
    let mut safe = MailServer::start(MailServerKind { tls: Some((&cert, &key)), login, port: 0 }).await;
    let mut plain = MailServer::start(MailServerKind::default()).await;
    let owed = || async {
        let store = database.store();
        let query = "SELECT count(*) FROM outbound_jobs WHERE attempts > 0 AND died_at IS NULL";
        sqlx::query_scalar::<_, i64>(query).fetch_one(store.pool()).await.expect("asked")
    };
    for (n, (port, password, trusts, arrives)) in [
        (safe.port(), "correct horse", true, true),
        // Nobody vouches for the server; the password is wrong; the server has no TLS: nothing is said in the clear.
        (safe.port(), "correct horse", false, false),
        (safe.port(), "wrong horse", true, false),
        (plain.port(), "correct horse", true, false),
    ]
    .into_iter()
    .enumerate()
    {
        let listen = free_port();
        let mut command = program(&database, &host, &listen);
        command
            .env("SMTP_HOST", "localhost")
            .env("SMTP_PORT", port.to_string())
            .env("SMTP_USERNAME", "wrenn")
            .env("SMTP_PASSWORD", password)
            .env("WRENN_DIR", dir.path())
            .env("SSL_CERT_FILE", if trusts { path("ca") } else { path("nothing") })
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("starts");
        let api = Api::at(&listen, "");
        wait_until("it answers", SOON, || async {
            api.try_get("/health").await.filter(|a| a.status == 200).map(|_| ())
        })
        .await;
        let body = serde_json::json!({"email": format!("p{n}@example.com"), "password": PASSWORD, "name": "Ann"});
        assert_eq!(api.post("/v1/auth/signup", body).await.status, 201);
        if arrives {
            let mail = safe.next(SOON).await;
            assert_eq!((mail.tls, mail.login.as_deref()), (true, Some("wrenn")));
            assert_eq!(mail.to, [format!("p{n}@example.com")]);
            wait_until("it is noted", SOON, || async { (owed().await == 0).then_some(()) }).await;
        } else {
            wait_until("it was tried, and waits", SOON, || async { (owed().await == 1).then_some(()) }).await;
        }
        child.kill().await.expect("killed");
        let store = database.store();
        sqlx::query("DELETE FROM outbound_jobs").execute(store.pool()).await.expect("deleted");
    }
    assert!(safe.rest(Duration::from_millis(100)).await.is_empty());
    assert!(plain.rest(Duration::from_millis(100)).await.is_empty());
}

#[tokio::test]
async fn it_rests_in_little_memory() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let listen = free_port();
    let child = serve(&database, &host, &listen);
    let api = Api::at(&listen, "");
    wait_until("it answers", SOON, || async { api.try_get("/health").await.filter(|a| a.status == 200).map(|_| ()) })
        .await;
    host_is_known(&database).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().expect("runs"))).expect("status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    assert!(kib < 60 * 1024, "{line}");
}
