//! Mails: owed by the transaction, sent by whoever comes to it, taken by a real mail server.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;
use wrenn_control::context::Tuning;
use wrenn_control::mail::{Delivery, DeliveryError, Letter};
use wrenn_domain::account::Email;
use wrenn_testkit::smtp::{MailServer, MailServerKind, TakenMail};
use wrenn_testkit::wait_until;

use crate::harness::{SOON, quick};
use crate::people::{House, PASSWORD};
use crate::program::free_port;

/// As a person reads it in the mail.
fn token(mail: &TakenMail) -> String {
    let (_, rest) = mail.text().split_once("?token=").expect("a link with a token");
    rest[..64].to_owned()
}

fn sign_up(email: &str) -> Value {
    json!({"email": email, "password": PASSWORD, "name": "Ann"})
}

async fn smtp_house(port: u16) -> House {
    let port = port.to_string();
    House::with(&[("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port), ("SMTP_TLS", "none")], |builder| builder).await
}

#[tokio::test]
async fn a_mail_waits_for_a_mail_server_that_is_away_and_its_link_works() {
    let port: u16 = free_port().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let house = smtp_house(port).await;
    let mut browser = house.browser();
    assert_eq!(browser.post("/v1/auth/signup", sign_up("ann@example.com")).await.status, 201);
    wait_until("it was tried in vain", SOON, || async {
        (house.count("SELECT count(*) FROM outbound_jobs WHERE attempts > 0 AND died_at IS NULL").await == 1)
            .then_some(())
    })
    .await;
    let mut server = MailServer::start(MailServerKind { port, ..MailServerKind::default() }).await;
    let mail = server.next(SOON).await;
    assert_eq!((mail.from.as_str(), &mail.to), ("noreply@wrenn.dev", &vec!["ann@example.com".to_owned()]));
    let token = token(&mail);
    let found: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM outbound_jobs e WHERE e::text LIKE '%' || $1 || '%')
              + (SELECT count(*) FROM account_tokens t WHERE t::text LIKE '%' || $1 || '%')",
    )
    .bind(&token)
    .fetch_one(house.database.store().pool())
    .await
    .expect("asked");
    assert_eq!(found, 0, "the token lies in the mail only");
    let done = browser.post("/v1/auth/activate", json!({"token": token})).await;
    assert_eq!(done.status, 200, "{:?}", done.body);
    house.nothing_is_owed().await;
}

#[tokio::test]
async fn two_control_planes_send_each_mail_once() {
    let mut server = MailServer::start(MailServerKind::default()).await;
    let house = smtp_house(server.port()).await;
    let port = server.port().to_string();
    let settings = [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", port.as_str()), ("SMTP_TLS", "none")];
    let second = house.another_plane(&settings, |builder| builder).await;
    let emails: Vec<_> = (0..24).map(|n| format!("p{n:02}@example.com")).collect();
    let answers = join_all(emails.iter().enumerate().map(|(n, email)| {
        let here = house.browser();
        let mut browser = if n % 2 == 0 { here } else { here.moved_to(&second) };
        async move { browser.post("/v1/auth/signup", sign_up(email)).await }
    }))
    .await;
    assert!(answers.iter().all(|answer| answer.status == 201));
    let mut taken = Vec::new();
    while taken.len() < emails.len() {
        taken.push(server.next(SOON).await);
    }
    house.nothing_is_owed().await;
    // Nothing is owed, so nothing more can leave; what did is in the pipe already.
    taken.extend(server.rest(Duration::from_millis(200)).await);
    let mut to: Vec<_> = taken.iter().flat_map(|mail| mail.to.clone()).collect();
    to.sort();
    assert_eq!(to, emails);
}

#[tokio::test]
async fn who_is_refused_put_off_or_hangs_holds_nobody_else_up() {
    let mut server = MailServer::start(MailServerKind::default()).await;
    let house = smtp_house(server.port()).await;
    let ask = async |email: &str| {
        assert_eq!(house.browser().post("/v1/auth/signup", sign_up(email)).await.status, 201);
    };
    for name in ["hang", "busy", "refused"] {
        for n in 0..3 {
            ask(&format!("{name}@n{n}.example.com")).await;
        }
    }
    for n in 0..4 {
        ask(&format!("p{n}@example.com")).await;
    }
    let mut to = Vec::new();
    while to.len() < 4 {
        to.extend(server.next(SOON).await.to);
    }
    to.sort();
    assert_eq!(to, ["p0@example.com", "p1@example.com", "p2@example.com", "p3@example.com"]);
    wait_until("the refused ones are given up at once", SOON, || async {
        let dead =
            "SELECT count(*) FROM outbound_jobs WHERE died_at IS NOT NULL AND attempts = 1 AND error LIKE '%550%'
                      AND payload::text LIKE '%refused@%'";
        (house.count(dead).await == 3).then_some(())
    })
    .await;
    wait_until("the others are tried again", SOON, || async {
        let again = "SELECT count(*) FROM outbound_jobs WHERE attempts > 1
                       AND (payload::text LIKE '%busy@%' OR payload::text LIKE '%hang@%')";
        (house.count(again).await == 6).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_mail_nobody_takes_is_given_up_after_its_tries() {
    let closed = free_port();
    let port = closed.rsplit(':').next().expect("a port");
    let settings = [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", port), ("SMTP_TLS", "none")];
    let tuning = Tuning { mail_retry_max: Duration::from_millis(30), ..quick() };
    let house = House::with(&settings, |builder| builder.tuning(tuning)).await;
    assert_eq!(house.browser().post("/v1/auth/signup", sign_up("ann@example.com")).await.status, 201);
    wait_until("it is given up", SOON, || async {
        let dead =
            "SELECT count(*) FROM outbound_jobs WHERE died_at IS NOT NULL AND error IS NOT NULL AND attempts = 13";
        (house.count(dead).await == 1).then_some(())
    })
    .await;
    // Who asks again is heard again.
    house.sql("UPDATE users SET created_at = now() - interval '31 min'").await;
    assert_eq!(house.browser().post("/v1/auth/signup", sign_up("ann@example.com")).await.status, 201);
    assert_eq!(house.count("SELECT count(*) FROM outbound_jobs WHERE payload::text LIKE '%ann@%'").await, 2);
}

#[tokio::test]
async fn a_request_writes_the_same_whether_or_not_there_is_an_account() {
    let house = House::start().await;
    house.person("known@example.com").await;
    house.pending("pending@example.com").await;
    house.sql("CREATE TABLE written (key text)").await;
    house
        .sql(
            "CREATE FUNCTION note_errand() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO written VALUES (NEW.key); RETURN NULL; END $$",
        )
        .await;
    house.sql("CREATE TRIGGER noted AFTER INSERT ON outbound_jobs FOR EACH ROW EXECUTE FUNCTION note_errand()").await;
    for (n, email) in ["known", "pending", "new"].into_iter().enumerate() {
        let email = format!("{email}@example.com");
        assert_eq!(house.browser().post("/v1/auth/signup", sign_up(&email)).await.status, 201);
        let reset = house.browser().post("/v1/me/password/reset", json!({"email": email})).await;
        assert_eq!(reset.status, 204);
        let written = house.count("SELECT count(DISTINCT key) FROM written").await;
        assert_eq!(written, 2 * (n as i64 + 1), "{email}: one for the sign-up, one for the reset");
    }
}

fn delivery(port: u16, more: &[(&str, &str)], send_max: Duration) -> Delivery {
    let port = port.to_string();
    let host = [("CP_HOST_AGENT_ADDR", "http://127.0.0.1:1"), ("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port)];
    let values = host.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let accounts = wrenn_control::Config::parse(&values).expect("valid").accounts;
    Delivery::new(&accounts, send_max).expect("a way")
}

fn ann() -> Email {
    "ann@example.com".parse().expect("an address")
}

#[tokio::test]
async fn a_mail_is_two_readings_of_one_text_and_nothing_typed_gets_into_its_head() {
    let mut server = MailServer::start(MailServerKind::default()).await;
    let delivery = delivery(server.port(), &[("SMTP_TLS", "none")], SOON);
    let long = "schön ".repeat(200);
    let subject = "Hallo\r\nBcc: eve@example.com\r\n\r\nBody";
    let letter = Letter::new("test", &ann(), subject, "Ann\r\nBcc: eve@example.com")
        .says(format!("{long}<b>&"))
        .says("\r\n.\r\nMAIL FROM:<eve@example.com>\r\nRCPT TO:<eve@example.com>\r\n.\r\n..dots")
        .with_button("Open", "https://wrenn.example.com/x?token=abc=def".to_owned());
    delivery.deliver(&letter, Uuid::from_u128(7)).await.expect("taken");
    let mail = server.next(SOON).await;
    assert_eq!(mail.to, ["ann@example.com"]);
    assert_eq!(mail.header("to"), "ann@example.com");
    assert_eq!(mail.header("from"), "Wrenn <noreply@wrenn.dev>");
    assert_eq!(mail.header("message-id"), "<00000000000000000000000000000007@wrenn.dev>");
    assert!(!mail.header("date").is_empty());
    let mut names: Vec<_> = mail.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    assert_eq!(names, ["content-type", "date", "from", "message-id", "mime-version", "subject", "to"]);
    assert!(mail.header("subject").starts_with("Hallo"), "{:?}", mail.headers);
    assert_eq!(mail.kind, "multipart/alternative");
    let kinds: Vec<_> = mail.parts.iter().map(|part| (part.kind.as_str(), part.encoding.as_str())).collect();
    assert_eq!(kinds, [("text/plain", "quoted-printable"), ("text/html", "quoted-printable")]);
    assert!(mail.is_ascii && mail.line_max <= 78, "{}", mail.line_max);
    let text = mail.text().replace('\r', "");
    for part in [long.trim_end(), "RCPT TO:<eve@example.com>\n.\n..dots", "https://wrenn.example.com/x?token=abc=def"] {
        assert!(text.contains(part), "{text}");
    }
    let html = &mail.parts[1].text;
    let link = "href=\"https://wrenn.example.com/x?token=abc=def\"";
    assert!(html.contains("&lt;b&gt;&amp;") && html.contains(link), "{html}");
    assert!(server.rest(Duration::from_millis(100)).await.is_empty(), "one mail and no more");
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_left_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let delivery = delivery(port, &[], Duration::from_millis(300));
    let letter = Letter::new("test", &ann(), "Hi", "Ann");
    let sent = tokio::time::timeout(SOON, delivery.deliver(&letter, Uuid::nil())).await.expect("bounded");
    let error = sent.expect_err("nobody answered");
    assert!(!error.is_final(), "{error}");
}

#[tokio::test]
async fn a_login_the_server_asks_for_in_vain_is_no_reason_to_throw_mails_away() {
    let kind = MailServerKind { login: Some(("wrenn", "right")), ..MailServerKind::default() };
    let server = MailServer::start(kind).await;
    let delivery = delivery(server.port(), &[("SMTP_TLS", "none")], SOON);
    let letter = Letter::new("test", &ann(), "Hi", "Ann");
    let error = delivery.deliver(&letter, Uuid::nil()).await.expect_err("no login was given");
    assert!(matches!(error, DeliveryError::Smtp(_)) && !error.is_final(), "{error:?}");
}
