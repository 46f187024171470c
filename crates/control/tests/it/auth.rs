//! Sign-up to session, the own account.

use http::Method;
use serde_json::json;
use wrenn_testkit::wait_until;

use crate::harness::SOON;
use crate::people::{House, PASSWORD};

#[tokio::test]
async fn from_sign_up_to_an_api_key_and_out_again() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    assert_eq!(ann.me["is_admin"], false, "nobody is an admin by coming first");
    assert_eq!(ann.me["role"], "owner");
    let (_, key) = ann.new_key().await;
    let api = ann.api(&key);
    assert_eq!(api.get("/v1/capsules").await.status, 200);
    assert_eq!(ann.get("/v1/capsules").await.status, 200, "a session may use capsules too");
    let id = api.create_running().await;
    assert_eq!(ann.get(&format!("/v1/capsules/{id}")).await.status, 200, "one team, one list");
    assert_eq!(ann.post("/v1/auth/logout", json!({})).await.status, 204);
    assert!(ann.cookies.is_empty(), "{:?}", ann.cookies);
    ann.get("/v1/me").await.is_error(401, "unauthorized");
    assert_eq!(house.log_in("ann@example.com").await.get("/v1/me").await.json()["email"], "ann@example.com");
    assert!(!house.person("bob@example.com").await.me["is_admin"].as_bool().expect("a bool"));
}

#[tokio::test]
async fn sign_up_and_reset_answer_the_same_whether_or_not_there_is_an_account() {
    let house = House::start().await;
    house.person("ann@example.com").await;
    let body = |email: &str| json!({"email": email, "password": PASSWORD, "name": "X"});
    let known = house.browser().post("/v1/auth/signup", body("ann@example.com")).await;
    let new = house.browser().post("/v1/auth/signup", body("new@example.com")).await;
    assert_eq!((known.status, &known.body), (new.status, &new.body));
    house.mail("already-signed-up", "ann@example.com").await;
    house.mail("activation", "new@example.com").await;
    let again = house.browser().post("/v1/auth/signup", body("new@example.com")).await;
    assert_eq!((again.status, &again.body), (new.status, &new.body), "a pending one neither");
    let reset = async |email: &str| {
        let answer = house.browser().post("/v1/me/password/reset", json!({"email": email})).await;
        (answer.status, answer.body)
    };
    assert_eq!(reset("ann@example.com").await, reset("nobody@example.com").await);
    house.mail("password-reset", "ann@example.com").await;
    assert!(house.mails("password-reset", "nobody@example.com", false).is_empty());
    let login = async |email: &str| {
        let body = json!({"email": email, "password": "wrong password"});
        let answer = house.browser().post("/v1/auth/login", body).await;
        (answer.status, answer.json()["error"]["message"].clone())
    };
    let known = login("ann@example.com").await;
    assert_eq!(known, login("nobody@example.com").await);
    assert_eq!(known, login("new@example.com").await, "not activated");
    assert_eq!(known, login("no address").await);
}

#[tokio::test]
async fn a_shut_account_is_told_so_only_with_its_password_and_an_unconfirmed_one_has_none() {
    let house = House::start().await;
    house.pending("bob@example.com").await;
    let unconfirmed = json!({"email": "bob@example.com", "password": PASSWORD});
    house.browser().post("/v1/auth/login", unconfirmed).await.is_error(401, "unauthorized");
    house.person("ann@example.com").await;
    let body = json!({"email": "ANN@example.com ", "password": PASSWORD});
    house.sql("UPDATE users SET status = 'disabled'").await;
    house.browser().post("/v1/auth/login", body.clone()).await.is_error(403, "forbidden");
    house.sql("UPDATE users SET status = 'deleted'").await;
    house.browser().post("/v1/auth/login", body).await.is_error(401, "unauthorized");
}

#[tokio::test]
async fn bad_sign_ups_are_refused_with_a_reason() {
    let house = House::start().await;
    for (field, value) in [
        ("email", json!("nobody")),
        ("email", json!("a@b.io\r\nBcc: c@d.io")),
        ("password", json!("short")),
        ("password", json!("x".repeat(1025))),
        ("name", json!("")),
        ("name", json!("<script>")),
        ("name", json!(1)),
    ] {
        let mut body = json!({"email": "a@example.com", "password": PASSWORD, "name": "Ann"});
        body[field] = value;
        let text = house.browser().post("/v1/auth/signup", body).await.is_error(400, "invalid_request");
        assert!(text.contains(field), "{field}: {text}");
    }
}

#[tokio::test]
async fn a_password_change_ends_every_session_and_needs_the_old_one() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let other = house.log_in("ann@example.com").await;
    let change = |current: &str, new: &str| json!({"current_password": current, "new_password": new});
    ann.post("/v1/me/password", change("wrong wrong", "new password!")).await.is_error(401, "unauthorized");
    ann.post("/v1/me/password", change(PASSWORD, "short")).await.is_error(400, "invalid_request");
    ann.post("/v1/me/password", json!({"new_password": "new password!"})).await.is_error(400, "invalid_request");
    assert_eq!(ann.post("/v1/me/password", change(PASSWORD, "new password!")).await.status, 204);
    assert!(ann.cookies.is_empty());
    other.get("/v1/me").await.is_error(401, "unauthorized");
    house.mail("password-changed", "ann@example.com").await;
    let login = |password: &str| json!({"email": "ann@example.com", "password": password});
    house.browser().post("/v1/auth/login", login(PASSWORD)).await.is_error(401, "unauthorized");
    assert_eq!(house.browser().post("/v1/auth/login", login("new password!")).await.status, 200);
}

#[tokio::test]
async fn an_account_without_password_gets_one_by_typing_it_twice() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    house.sql("UPDATE users SET password_hash = NULL").await;
    assert_eq!(ann.get("/v1/me").await.json()["has_password"], false);
    let body = |confirm: &str| json!({"new_password": "new password!", "confirm_password": confirm});
    ann.post("/v1/me/password", body("other password")).await.is_error(400, "invalid_request");
    assert_eq!(ann.post("/v1/me/password", body("new password!")).await.status, 204);
}

#[tokio::test]
async fn a_reset_link_works_once_and_ends_every_session() {
    let house = House::start().await;
    let ann = house.person("ann@example.com").await;
    assert_eq!(house.browser().post("/v1/me/password/reset", json!({"email": "ann@example.com"})).await.status, 204);
    let token = house.token("password-reset", "ann@example.com").await;
    let body = |token: &str| json!({"token": token, "new_password": "brand new one"});
    let mut browser = house.browser();
    for bad in ["", "zz", &"0".repeat(64)] {
        browser.post("/v1/me/password/reset/confirm", body(bad)).await.is_error(400, "invalid_request");
    }
    let short = json!({"token": token, "new_password": "short"});
    browser.post("/v1/me/password/reset/confirm", short).await.is_error(400, "invalid_request");
    assert_eq!(browser.post("/v1/me/password/reset/confirm", body(&token)).await.status, 204);
    browser.post("/v1/me/password/reset/confirm", body(&token)).await.is_error(400, "invalid_request");
    ann.get("/v1/me").await.is_error(401, "unauthorized");
    let login = json!({"email": "ann@example.com", "password": "brand new one"});
    assert_eq!(browser.post("/v1/auth/login", login).await.status, 200);
}

#[tokio::test]
async fn an_old_reset_or_activation_link_is_dead() {
    let house = House::start().await;
    let token = house.pending("ann@example.com").await;
    house.sql("UPDATE account_tokens SET expires_at = now()").await;
    house.browser().post("/v1/auth/activate", json!({"token": token})).await.is_error(400, "invalid_request");
}

#[tokio::test]
async fn a_person_sees_and_ends_sessions_and_is_renamed_everywhere() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let other = house.log_in("ann@example.com").await;
    let list = ann.get("/v1/me/sessions").await.json();
    let sessions = list["sessions"].as_array().expect("a list").clone();
    assert_eq!(sessions.len(), 2);
    assert!(sessions.iter().all(|s| s["user_agent"] == "test browser"), "{list}");
    assert!(sessions.iter().any(|s| s["ip_address"] == ann.address.as_str()), "{list}");
    assert!(!list.to_string().contains(&ann.cookies["wrenn_sid"]), "the list holds no secret");
    assert_eq!(ann.patch("/v1/me", json!({"name": "Anna"})).await.status, 204);
    ann.patch("/v1/me", json!({"name": "\u{0}"})).await.is_error(400, "invalid_request");
    assert_eq!(other.get("/v1/me").await.json()["name"], "Anna");
    let theirs = sessions.iter().find(|s| s["current"] == false).expect("the other")["id"].as_str().expect("text");
    assert_eq!(ann.delete(&format!("/v1/me/sessions/{theirs}")).await.status, 204);
    assert_eq!(ann.delete(&format!("/v1/me/sessions/{theirs}")).await.status, 204, "again is no error");
    ann.delete("/v1/me/sessions/zz").await.is_error(400, "invalid_request");
    other.get("/v1/me").await.is_error(401, "unauthorized");
    let mine = sessions.iter().find(|s| s["current"] == true).expect("mine")["id"].as_str().expect("text");
    assert_eq!(ann.delete(&format!("/v1/me/sessions/{mine}")).await.status, 204);
    assert!(ann.cookies.is_empty());
}

#[tokio::test]
async fn somebody_elses_session_cannot_be_ended() {
    let house = House::start().await;
    let ann = house.person("ann@example.com").await;
    let mut bob = house.person("bob@example.com").await;
    let list = ann.get("/v1/me/sessions").await.json();
    let id = list["sessions"][0]["id"].as_str().expect("text").to_owned();
    assert_eq!(bob.delete(&format!("/v1/me/sessions/{id}")).await.status, 204);
    assert_eq!(ann.get("/v1/me").await.status, 200);
}

#[tokio::test]
async fn log_out_everywhere_ends_all_sessions() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let others = [house.log_in("ann@example.com").await, house.log_in("ann@example.com").await];
    assert_eq!(ann.post("/v1/auth/logout-all", json!({})).await.status, 204);
    for other in &others {
        other.get("/v1/me").await.is_error(401, "unauthorized");
    }
}

#[tokio::test]
async fn a_session_not_used_for_six_hours_or_older_than_a_day_is_over() {
    let house = House::start().await;
    let ann = house.person("ann@example.com").await;
    let bob = house.person("bob@example.com").await;
    house
        .sql("UPDATE sessions SET last_seen_at = now() - interval '6 h 1 s' WHERE user_id IN (SELECT id FROM users WHERE email LIKE 'ann%')")
        .await;
    house
        .sql("UPDATE sessions SET expires_at = now() WHERE user_id IN (SELECT id FROM users WHERE email LIKE 'bob%')")
        .await;
    house.empty_redis().await;
    for browser in [ann, bob] {
        wait_until("the session is over", SOON, || async { (browser.get("/v1/me").await.status == 401).then_some(()) })
            .await;
    }
}

#[tokio::test]
async fn switching_the_team_makes_a_new_session_and_ends_the_old() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let old = ann.clone();
    let made = ann.post("/v1/teams", json!({"name": "Second"})).await.json();
    let second = made["id"].as_str().expect("an id").to_owned();
    let switched = ann.post("/v1/auth/switch-team", json!({"team_id": second})).await;
    assert_eq!((switched.status.as_u16(), &switched.json()["team_id"]), (200, &json!(second)));
    assert_ne!(old.cookies["wrenn_sid"], ann.cookies["wrenn_sid"]);
    assert_ne!(old.cookies["wrenn_csrf"], ann.cookies["wrenn_csrf"]);
    old.get("/v1/me").await.is_error(401, "unauthorized");
    assert_eq!(ann.get("/v1/me").await.json()["team_id"], json!(second));
    let bob = house.person("bob@example.com").await;
    ann.post("/v1/auth/switch-team", json!({"team_id": bob.team()})).await.is_error(404, "not_found");
    ann.post("/v1/auth/switch-team", json!({"team_id": "team-x"})).await.is_error(400, "invalid_request");
}

#[tokio::test]
async fn an_account_is_deleted_by_its_address_and_purged_after_its_time() {
    let house = House::start().await;
    let mut admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let api = ann.api(&key);
    let capsule = api.create_running().await;
    let delete = |body| (Method::DELETE, "/v1/me", body);
    let (method, path, body) = delete(json!({"confirmation": "bob@example.com"}));
    ann.call(method, path, body).await.is_error(400, "invalid_request");
    let (method, path, body) = delete(json!({"confirmation": "admin@example.com"}));
    admin.call(method, path, body).await.is_error(409, "conflict");
    ann.add_member("admin@example.com").await;
    let (method, path, body) = delete(json!({"confirmation": "ANN@example.com"}));
    ann.call(method, path, body.clone()).await.is_error(409, "conflict");
    let member = format!("/v1/teams/{}/members/{}", ann.team(), admin.user());
    assert_eq!(ann.delete(&member).await.status, 204);
    assert_eq!(ann.call(Method::DELETE, "/v1/me", body).await.status, 204);
    house.mail("account-deleted", "ann@example.com").await;
    ann.get("/v1/me").await.is_error(401, "unauthorized");
    wait_until("the key is dead", SOON, || async { (api.get("/v1/capsules").await.status == 401).then_some(()) }).await;
    wait_until("the capsule is gone", SOON, || async { house.host.living().is_empty().then_some(()) }).await;
    assert_eq!(house.host.delete_calls(&capsule), 1);
    let again = json!({"email": "ann@example.com", "password": PASSWORD, "name": "Ann"});
    assert_eq!(house.browser().post("/v1/auth/signup", again).await.status, 201);
    house.sql("UPDATE users SET deleted_at = now() - interval '15 days 1 s' WHERE status = 'deleted'").await;
    // The sweeper looks when a control plane starts.
    let second = house.second_plane().await;
    house.mail("account-purged", "ann@example.com").await;
    assert_eq!(house.count("SELECT count(*) FROM users WHERE email = 'ann@example.com'").await, 0);
    assert_eq!(house.count("SELECT count(*) FROM audit_logs WHERE actor_name = 'ann@example.com'").await, 0);
    assert!(house.count("SELECT count(*) FROM audit_logs WHERE actor_name = 'deleted-user'").await > 0);
    drop(second);
}

#[tokio::test]
async fn every_credential_tells_who_it_is() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let by_session = ann.get("/v1/whoami").await.json();
    assert_eq!(
        (by_session["credential"].as_str(), by_session["email"].as_str()),
        (Some("session"), Some("ann@example.com"))
    );
    let (_, key) = ann.new_key().await;
    let by_key = ann.api(&key).get("/v1/whoami").await.json();
    assert_eq!((by_key["credential"].as_str(), by_key.get("email")), (Some("team_key"), None));
    assert_eq!(by_key["team_name"], "Ann O'Neil's Team");
    let personal = crate::people::personal_key(&house, &mut ann).await;
    let by_personal = ann.api(&personal).get("/v1/whoami").await.json();
    assert_eq!(
        (by_personal["credential"].as_str(), by_personal["role"].as_str()),
        (Some("personal_key"), Some("owner"))
    );
    house.browser().get("/v1/whoami").await.is_error(401, "unauthorized");
}

#[tokio::test]
async fn what_is_past_its_time_is_removed() {
    let house = House::start().await;
    let ann = house.person("ann@example.com").await;
    house.pending("bob@example.com").await;
    assert_eq!(house.browser().post("/v1/auth/device", json!({})).await.status, 201);
    for statement in [
        "UPDATE sessions SET expires_at = now()",
        "UPDATE account_tokens SET expires_at = now()",
        "UPDATE device_logins SET expires_at = now()",
        "UPDATE users SET created_at = now() - interval '8 days' WHERE status = 'inactive'",
        "INSERT INTO outbound_jobs (id, kind, payload, died_at) VALUES (gen_random_uuid(), 'mail', '{}', now() - interval '8 days')",
    ] {
        assert_eq!(house.sql(statement).await, 1, "{statement}");
    }
    // The sweeper looks when a control plane starts.
    let _second = house.second_plane().await;
    let left = "SELECT (SELECT count(*) FROM sessions) + (SELECT count(*) FROM account_tokens) + (SELECT count(*) FROM outbound_jobs)
                  + (SELECT count(*) FROM device_logins) + (SELECT count(*) FROM users WHERE status = 'inactive')";
    wait_until("all of it is gone", SOON, || async { (house.count(left).await == 0).then_some(()) }).await;
    ann.get("/v1/me").await.is_error(401, "unauthorized");
    assert_eq!(house.log_in("ann@example.com").await.get("/v1/me").await.status, 200, "the account stays");
}
