//! Teams, members, keys, the audit log, over HTTP.

use http::Method;
use serde_json::{Value, json};
use wrenn_testkit::wait_until;

use crate::harness::SOON;
use crate::people::{House, personal_key};

#[tokio::test]
async fn a_team_lives_from_its_creation_to_its_end() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let bob = house.person("bob@example.com").await;
    let made = ann.post("/v1/teams", json!({"name": "Rocket @ Sea"})).await;
    assert_eq!(made.status, 201);
    let made = made.json();
    assert_eq!((made["name"].as_str(), made["role"].as_str()), (Some("Rocket @ Sea"), Some("owner")));
    house.mail("team-created", "ann@example.com").await;
    let team = made["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/teams/{team}");
    assert_eq!(ann.get("/v1/teams").await.json().as_array().map(Vec::len), Some(2));
    let added = ann.post(&format!("{path}/members"), json!({"email": "BOB@example.com"})).await;
    assert_eq!((added.status.as_u16(), added.json()["role"].as_str()), (201, Some("member")));
    house.mail("added-to-team", "bob@example.com").await;
    ann.post(&format!("{path}/members"), json!({"email": "bob@example.com"})).await.is_error(409, "conflict");
    ann.post(&format!("{path}/members"), json!({"email": "nobody@example.com"})).await.is_error(404, "not_found");
    ann.post(&format!("{path}/members"), json!({"email": "x"})).await.is_error(400, "invalid_request");
    assert_eq!(ann.patch(&path, json!({"name": "Renamed"})).await.status, 204);
    ann.patch(&path, json!({"name": "a\nb"})).await.is_error(400, "invalid_request");
    let whole = bob.get(&path).await.json();
    assert_eq!(whole["team"]["name"], "Renamed");
    assert_eq!(whole["members"].as_array().map(Vec::len), Some(2));
    assert_eq!(bob.get(&format!("{path}/members")).await.json()[0]["email"], "ann@example.com");
    assert_eq!(ann.delete(&path).await.status, 204);
    for browser in [&ann, &bob] {
        browser.get(&path).await.is_error(404, "not_found");
    }
    ann.delete(&path).await.is_error(404, "not_found");
}

#[tokio::test]
async fn each_role_may_what_the_table_says_and_no_more() {
    let house = House::start().await;
    let mut owner = house.person("owner@example.com").await;
    let mut admin = house.person("admin@example.com").await;
    let mut member = house.person("member@example.com").await;
    let third = house.person("third@example.com").await;
    for email in ["admin@example.com", "member@example.com", "third@example.com"] {
        owner.add_member(email).await;
    }
    let path = format!("/v1/teams/{}", owner.team());
    let of = |user: &str| format!("{path}/members/{user}");
    let role = |role: &str| json!({"role": role});
    member.patch(&of(&third.user()), role("admin")).await.is_error(403, "forbidden");
    assert_eq!(owner.patch(&of(&admin.user()), role("admin")).await.status, 204);
    owner.patch(&of(&owner.user()), role("member")).await.is_error(403, "forbidden");
    owner.patch(&of(&admin.user()), role("owner")).await.is_error(400, "invalid_request");
    owner.patch(&of(&admin.user()), role("king")).await.is_error(400, "invalid_request");
    owner.patch(&of("usr-0000000000000000000000000"), role("admin")).await.is_error(404, "not_found");
    admin.patch(&of(&owner.user()), role("member")).await.is_error(403, "forbidden");
    assert_eq!(admin.patch(&path, json!({"name": "By admin"})).await.status, 204);
    member.patch(&path, json!({"name": "x"})).await.is_error(403, "forbidden");
    member.post(&format!("{path}/members"), json!({"email": "x@example.com"})).await.is_error(403, "forbidden");
    admin.delete(&path).await.is_error(403, "forbidden");
    admin.delete(&of(&owner.user())).await.is_error(403, "forbidden");
    member.delete(&of(&third.user())).await.is_error(403, "forbidden");
    assert_eq!(admin.delete(&of(&third.user())).await.status, 204);
    third.get(&path).await.is_error(404, "not_found");
    let to = |user: &str| json!({"user_id": user});
    let transfer = format!("{path}/transfer");
    admin.post(&transfer, to(&admin.user())).await.is_error(403, "forbidden");
    owner.post(&transfer, to(&third.user())).await.is_error(404, "not_found");
    owner.post(&transfer, to(&owner.user())).await.is_error(409, "conflict");
    owner.post(&transfer, to("usr-x")).await.is_error(400, "invalid_request");
    owner.post(&format!("{path}/leave"), json!({})).await.is_error(403, "forbidden");
    assert_eq!(owner.post(&transfer, to(&admin.user())).await.status, 204);
    assert_eq!(admin.get(&path).await.json()["team"]["role"], "owner");
    assert_eq!(owner.get(&path).await.json()["team"]["role"], "admin");
    assert_eq!(owner.post(&format!("{path}/leave"), json!({})).await.status, 204);
    owner.get(&path).await.is_error(404, "not_found");
    assert_eq!(member.post(&format!("{path}/leave"), json!({})).await.status, 204);
}

#[tokio::test]
async fn a_removed_members_keys_and_sessions_lose_the_team_at_once() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let mut bob = house.person("bob@example.com").await;
    ann.add_member("bob@example.com").await;
    assert_eq!(bob.post("/v1/auth/switch-team", json!({"team_id": ann.team()})).await.status, 200);
    let (_, key) = bob.new_key().await;
    let personal = personal_key(&house, &mut bob).await;
    let (_, anns) = ann.new_key().await;
    assert_eq!(bob.get("/v1/capsules").await.status, 200);
    let member = format!("/v1/teams/{}/members/{}", ann.team(), bob.user());
    assert_eq!(ann.delete(&member).await.status, 204);
    bob.get("/v1/capsules").await.is_error(403, "forbidden");
    for key in [key, personal] {
        bob.api(&key).get("/v1/capsules").await.is_error(401, "unauthorized");
    }
    assert_eq!(ann.api(&anns).get("/v1/capsules").await.status, 200);
    assert_eq!(bob.get("/v1/me").await.json().get("team_id"), None, "logged in, in no team");
}

#[tokio::test]
async fn keys_are_made_with_an_expiry_listed_without_secret_and_taken_back_by_role() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let mut bob = house.person("bob@example.com").await;
    ann.add_member("bob@example.com").await;
    let team = ann.team();
    for days in [0, -1, 3651] {
        ann.post("/v1/api-keys", json!({"expires_in_days": days})).await.is_error(400, "invalid_request");
    }
    ann.post("/v1/api-keys", json!({"name": "a\u{0}b"})).await.is_error(400, "invalid_request");
    let made = ann.post("/v1/api-keys", json!({"expires_in_days": 1})).await.json();
    assert_eq!(
        (made["name"].as_str(), made["creator_email"].as_str()),
        (Some("Unnamed API Key"), Some("ann@example.com"))
    );
    let secret = made["key"].as_str().expect("a key").to_owned();
    let api = ann.api(&secret);
    assert_eq!(api.get("/v1/capsules").await.status, 200);
    let bobs = bob.post("/v1/api-keys", json!({"name": "bob's", "team_id": team})).await.json();
    let listed = bob.get(&format!("/v1/api-keys?team_id={team}")).await;
    let text = String::from_utf8(listed.body.to_vec()).expect("UTF-8");
    assert!(text.contains("bob's") && !text.contains(&secret), "{text}");
    assert_eq!(listed.json().as_array().map(Vec::len), Some(2));
    let path = |id: &Value| format!("/v1/api-keys/{}?team_id={team}", id.as_str().expect("an id"));
    bob.delete(&path(&made["id"])).await.is_error(403, "forbidden");
    assert_eq!(bob.delete(&path(&bobs["id"])).await.status, 204);
    assert_eq!(bob.delete(&path(&bobs["id"])).await.status, 204, "again is no error");
    assert_eq!(house.sql("UPDATE team_api_keys SET expires_at = now() WHERE revoked_at IS NULL").await, 1);
    wait_until("the key has expired", SOON, || async { (api.get("/v1/capsules").await.status == 401).then_some(()) })
        .await;
    assert_eq!(ann.delete(&path(&made["id"])).await.status, 204);
    ann.delete("/v1/api-keys/key-x").await.is_error(400, "invalid_request");
}

#[tokio::test]
async fn a_teams_key_speaks_for_nobody_and_a_personal_one_for_its_person() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let personal = personal_key(&house, &mut ann).await;
    for path in ["/v1/teams", "/v1/api-keys", "/v1/audit-logs", "/v1/me", "/v1/users/search?email=ann@"] {
        ann.api(&key).get(path).await.is_error(403, "forbidden");
        assert_eq!(ann.api(&personal).get(path).await.status, 200, "{path}");
    }
    for path in ["/v1/me/sessions", "/v1/admin/users", "/v1/me/providers/github/connect"] {
        ann.api(&personal).get(path).await.is_error(401, "unauthorized");
    }
}

#[tokio::test]
async fn people_are_found_among_those_one_shares_a_team_with() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    house.person("bob@example.com").await;
    house.person("bobby@elsewhere.com").await;
    ann.add_member("bob@example.com").await;
    let found = ann.get("/v1/users/search?email=BOB@").await.json();
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    assert_eq!(ann.get("/v1/users/search?email=bobby@").await.json(), json!([]));
    assert_eq!(ann.get("/v1/users/search?email=%25%25@").await.json(), json!([]));
    for bad in ["", "?email=ab", "?email=bob", "?email=%00%00@"] {
        ann.get(&format!("/v1/users/search{bad}")).await.is_error(400, "invalid_request");
    }
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what_to_whom_it_may() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let bob = house.person("bob@example.com").await;
    ann.add_member("bob@example.com").await;
    let (_, key) = ann.new_key().await;
    let api = ann.api(&key);
    let capsule = api.create_running().await;
    assert_eq!(ann.delete(&format!("/v1/capsules/{capsule}")).await.status, 202);
    let log = ann.get("/v1/audit-logs").await.json();
    let acts: Vec<String> = log["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            format!("{} {} {} {}", text("actor_type"), text("actor_name"), text("resource_type"), text("action"))
        })
        .collect();
    assert_eq!(
        acts,
        [
            "user ann@example.com sandbox destroy",
            "api_key test sandbox create",
            "user ann@example.com api_key create",
            "user ann@example.com member add",
            "user ann@example.com team create",
        ]
    );
    let bobs = bob.get(&format!("/v1/audit-logs?team_id={}", ann.team())).await.json();
    assert_eq!(bobs["items"].as_array().map(Vec::len), Some(4), "members do not see the scope admin");
    let mut cursor = String::new();
    let mut seen = Vec::new();
    loop {
        let page = ann.get(&format!("/v1/audit-logs?limit=2{cursor}")).await.json();
        seen.extend(page["items"].as_array().expect("a list").iter().map(|row| row["id"].clone()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let all: Vec<Value> = log["items"].as_array().expect("a list").iter().map(|row| row["id"].clone()).collect();
    assert_eq!(seen, all);
    let some = ann.get("/v1/audit-logs?resource_type=sandbox,member&action=create,add").await.json();
    assert_eq!(some["items"].as_array().map(Vec::len), Some(2));
    for bad in ["limit=0", "limit=201", "limit=x", "cursor=zz", "resource_type='", "team_id=x"] {
        ann.get(&format!("/v1/audit-logs?{bad}")).await.is_error(400, "invalid_request");
    }
}

#[tokio::test]
async fn the_id_of_another_team_finds_nothing_anywhere() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let mut eve = house.person("eve@example.com").await;
    let (id, key) = ann.new_key().await;
    let capsule = ann.api(&key).create_running().await;
    let (team, user) = (ann.team(), ann.user());
    for (method, path, body) in [
        (Method::GET, format!("/v1/teams/{team}"), Value::Null),
        (Method::PATCH, format!("/v1/teams/{team}"), json!({"name": "Mine"})),
        (Method::DELETE, format!("/v1/teams/{team}"), Value::Null),
        (Method::GET, format!("/v1/teams/{team}/members"), Value::Null),
        (Method::POST, format!("/v1/teams/{team}/members"), json!({"email": "eve@example.com"})),
        (Method::PATCH, format!("/v1/teams/{team}/members/{user}"), json!({"role": "member"})),
        (Method::DELETE, format!("/v1/teams/{team}/members/{user}"), Value::Null),
        (Method::POST, format!("/v1/teams/{team}/leave"), json!({})),
        (Method::POST, format!("/v1/teams/{team}/transfer"), json!({"user_id": eve.user()})),
        (Method::POST, "/v1/auth/switch-team".to_owned(), json!({"team_id": team})),
        (Method::POST, "/v1/api-keys".to_owned(), json!({"team_id": team})),
        (Method::GET, format!("/v1/api-keys?team_id={team}"), Value::Null),
        (Method::DELETE, format!("/v1/api-keys/{id}?team_id={team}"), Value::Null),
        (Method::GET, format!("/v1/audit-logs?team_id={team}"), Value::Null),
        (Method::GET, format!("/v1/capsules/{capsule}"), Value::Null),
        (Method::DELETE, format!("/v1/capsules/{capsule}"), Value::Null),
        (Method::POST, format!("/v1/capsules/{capsule}/ping"), Value::Null),
        (Method::POST, format!("/v1/capsules/{capsule}/exec"), json!({"cmd": "id"})),
        (Method::GET, format!("/v1/capsules/{capsule}/processes"), Value::Null),
        (Method::POST, format!("/v1/capsules/{capsule}/files/read"), json!({"path": "/etc/passwd"})),
    ] {
        let answer = eve.call(method.clone(), &path, body).await;
        assert_eq!(answer.status, 404, "{method} {path}: {:?}", answer.body);
    }
    // Her own route with another team's key: not found there, so nothing to take back.
    assert_eq!(eve.delete(&format!("/v1/api-keys/{id}")).await.status, 204);
    assert_eq!(ann.api(&key).get("/v1/capsules").await.status, 200);
}
