//! Platform admins.

use http::Method;
use serde_json::{Value, json};
use wrenn_testkit::wait_until;

use crate::harness::SOON;
use crate::people::{House, PASSWORD};

#[tokio::test]
async fn admin_routes_are_for_admins_as_the_database_knows_them_now() {
    let house = House::start().await;
    let admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let id = "cl-0000000000000000000000000";
    let team = ann.team();
    let user = admin.user();
    let routes = [
        (Method::GET, "/v1/admin/teams".to_owned(), Value::Null),
        (Method::DELETE, format!("/v1/admin/teams/{team}"), Value::Null),
        (Method::GET, "/v1/admin/users".to_owned(), Value::Null),
        (Method::PUT, format!("/v1/admin/users/{user}/active"), json!({"active": false})),
        (Method::PUT, format!("/v1/admin/users/{}/admin", ann.user()), json!({"admin": true})),
        (Method::GET, "/v1/admin/capsules".to_owned(), Value::Null),
        (Method::GET, format!("/v1/admin/capsules/{id}"), Value::Null),
        (Method::DELETE, format!("/v1/admin/capsules/{id}"), Value::Null),
        (Method::GET, "/v1/admin/templates".to_owned(), Value::Null),
        (Method::DELETE, "/v1/admin/templates/minimal".to_owned(), Value::Null),
        (Method::GET, "/v1/admin/audit-logs".to_owned(), Value::Null),
        (Method::GET, "/v1/admin/events/dead".to_owned(), Value::Null),
        (
            Method::POST,
            "/v1/admin/events/dead/retry".to_owned(),
            json!({"event_id": "evt-0000000000000000000000000", "group": "g"}),
        ),
    ];
    for (method, path, body) in routes {
        ann.call(method.clone(), &path, body.clone()).await.is_error(403, "forbidden");
        house.browser().call(method, &path, body).await.is_error(401, "unauthorized");
    }
    assert_eq!(admin.get("/v1/admin/users").await.status, 200);
    // The session still says admin; the database does not.
    house.sql("UPDATE users SET is_admin = false").await;
    admin.get("/v1/admin/users").await.is_error(403, "forbidden");
}

#[tokio::test]
async fn an_admin_sees_all_teams_users_capsules_and_templates() {
    let house = House::start().await;
    let mut admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let capsule = ann.api(&key).create_running().await;
    let users = admin.get("/v1/admin/users").await.json();
    assert_eq!(
        (users["total"].as_i64(), users["total_pages"].as_i64(), users["per_page"].as_i64()),
        (Some(2), Some(1), Some(100))
    );
    assert_eq!(
        (users["users"][0]["email"].as_str(), users["users"][0]["teams_owned"].as_i64()),
        (Some("ann@example.com"), Some(1))
    );
    let teams = admin.get("/v1/admin/teams?page=1").await.json();
    let anns =
        teams["teams"].as_array().expect("a list").iter().find(|t| t["id"] == ann.team().as_str()).expect("hers");
    assert_eq!(
        (anns["active_sandbox_count"].as_i64(), anns["owner_email"].as_str()),
        (Some(1), Some("ann@example.com"))
    );
    assert_eq!(admin.get("/v1/admin/teams?page=2").await.json()["teams"], json!([]));
    for bad in ["page=0", "page=x", "page=99999999999"] {
        admin.get(&format!("/v1/admin/users?{bad}")).await.is_error(400, "invalid_request");
    }
    assert_eq!(admin.get("/v1/admin/capsules").await.json()[0]["team_id"], ann.team().as_str());
    assert_eq!(admin.get(&format!("/v1/admin/capsules/{capsule}")).await.json()["id"], capsule.as_str());
    admin.get("/v1/admin/capsules/cl-0000000000000000000000000").await.is_error(404, "not_found");
    assert_eq!(admin.get("/v1/admin/templates").await.json()[0]["name"], "minimal");
    assert_eq!(admin.delete(&format!("/v1/admin/capsules/{capsule}")).await.status, 202);
    wait_until("it is gone", SOON, || async { house.host.living().is_empty().then_some(()) }).await;
    let log = admin.get("/v1/admin/audit-logs").await.json();
    assert_eq!(log["items"][0]["action"], "destroy");
    let theirs = admin.get(&format!("/v1/admin/audit-logs?team_id={}&resource_type=api_key", ann.team())).await.json();
    assert_eq!(theirs["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn an_account_shut_out_loses_sessions_keys_and_capsules_and_may_come_back() {
    let house = House::start().await;
    let mut admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    ann.api(&key).create_running().await;
    let path = format!("/v1/admin/users/{}/active", ann.user());
    admin
        .put(&format!("/v1/admin/users/{}/active", admin.user()), json!({"active": false}))
        .await
        .is_error(400, "invalid_request");
    admin
        .put("/v1/admin/users/usr-0000000000000000000000000/active", json!({"active": false}))
        .await
        .is_error(404, "not_found");
    assert_eq!(admin.put(&path, json!({"active": false})).await.status, 204);
    ann.get("/v1/me").await.is_error(401, "unauthorized");
    ann.api(&key).get("/v1/capsules").await.is_error(401, "unauthorized");
    let login = json!({"email": "ann@example.com", "password": PASSWORD});
    house.browser().post("/v1/auth/login", login.clone()).await.is_error(403, "forbidden");
    wait_until("its capsules are gone", SOON, || async { house.host.living().is_empty().then_some(()) }).await;
    assert_eq!(admin.put(&path, json!({"active": true})).await.status, 204);
    assert_eq!(house.browser().post("/v1/auth/login", login).await.status, 200);
    let actions = admin.get("/v1/admin/audit-logs?resource_type=user").await.json();
    assert_eq!(
        (actions["items"][0]["action"].as_str(), actions["items"][1]["action"].as_str()),
        (Some("activate"), Some("deactivate"))
    );
}

#[tokio::test]
async fn an_admin_deletes_any_unprotected_template_with_its_files() {
    let house = House::start().await;
    let mut admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let api = ann.api(&key);
    let capsule = api.create_running().await;
    for name in ["mine", "ours"] {
        assert_eq!(api.post("/v1/snapshots", json!({"sandbox_id": capsule, "name": name})).await.status, 202);
        wait_until("it is captured", SOON, || async {
            let list = api.get("/v1/snapshots?type=snapshot").await.json();
            list.as_array().expect("a list").iter().any(|row| row["name"] == name).then_some(())
        })
        .await;
        api.wait_status(&capsule, "running").await;
    }
    // As a build of the platform leaves one.
    house.sql("UPDATE templates SET team_id = '00000000-0000-0000-0000-000000000000' WHERE name = 'ours'").await;
    assert_eq!(house.host.snapshots().len(), 2);
    let path = |name: &str, team: &str| format!("/v1/admin/templates/{name}?team_id={team}");
    let (team, nobody) = (ann.team(), "team-0000000000000000000000001");
    admin.delete("/v1/admin/templates/minimal").await.is_error(403, "forbidden");
    admin.delete("/v1/admin/templates/mine").await.is_error(404, "not_found");
    admin.delete("/v1/admin/templates/a%2Fb").await.is_error(400, "invalid_request");
    admin.delete(&path("mine", "x")).await.is_error(400, "invalid_request");
    admin.delete(&path("mine", nobody)).await.is_error(404, "not_found");
    admin.delete(&path("minimal", &team)).await.is_error(404, "not_found");
    assert_eq!(admin.delete(&path("mine", &team)).await.status, 204);
    admin.delete(&path("mine", &team)).await.is_error(404, "not_found");
    assert_eq!(admin.delete("/v1/admin/templates/ours").await.status, 204);
    wait_until("their files are gone", SOON, || async { house.host.snapshots().is_empty().then_some(()) }).await;
    let log = admin.get("/v1/admin/audit-logs?resource_type=template").await.json();
    let rows: Vec<_> = log["items"].as_array().expect("a list").iter().map(|row| &row["resource_id"]).collect();
    assert_eq!(rows, ["ours", "mine"]);
    assert_eq!(log["items"][1]["metadata"]["team_id"], team.as_str());
    let theirs = ann.get("/v1/audit-logs?resource_type=template&action=delete").await.json();
    assert_eq!(theirs["items"][0]["actor_name"], "admin@example.com");
    let told = "SELECT count(*) FROM event_outbox WHERE payload->>'event' = 'template.snapshot.delete'";
    assert_eq!(house.count(told).await, 2);
}

#[tokio::test]
async fn there_is_always_an_admin() {
    let house = House::start().await;
    let mut admin = house.person("admin@example.com").await;
    let ann = house.person("ann@example.com").await;
    let path = |user: &str| format!("/v1/admin/users/{user}/admin");
    admin.put(&path(&admin.user()), json!({"admin": false})).await.is_error(400, "invalid_request");
    assert_eq!(admin.put(&path(&ann.user()), json!({"admin": true})).await.status, 204);
    assert_eq!(ann.get("/v1/admin/users").await.status, 200);
    assert_eq!(admin.put(&path(&admin.user()), json!({"admin": false})).await.status, 204);
    admin.get("/v1/admin/users").await.is_error(403, "forbidden");
}

#[tokio::test]
async fn an_admin_deletes_any_team_but_the_platforms() {
    let house = House::start().await;
    let mut admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    admin.delete("/v1/admin/teams/team-0000000000000000000000000").await.is_error(404, "not_found");
    let path = format!("/v1/admin/teams/{}", ann.team());
    assert_eq!(admin.delete(&path).await.status, 204);
    admin.delete(&path).await.is_error(404, "not_found");
    ann.api(&key).get("/v1/capsules").await.is_error(401, "unauthorized");
    ann.get("/v1/capsules").await.is_error(403, "forbidden");
    assert!(house.log_in("ann@example.com").await.me["team_id"].is_string(), "a login finds or makes a team");
}
