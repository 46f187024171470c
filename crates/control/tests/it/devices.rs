//! Logins of programs without a browser.

use serde_json::json;

use crate::people::House;

#[tokio::test]
async fn a_program_waits_is_approved_and_gets_its_key_once() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let mut program = house.browser();
    let begun = program.post("/v1/auth/device", json!({"client": "wrenn on laptop"})).await;
    assert_eq!(begun.status, 201);
    let begun = begun.json();
    let uri = begun["verification_uri"].as_str().expect("a URL");
    assert!(uri.starts_with(&house.plane.url("/device?code=")), "{uri}");
    let ask = json!({"device_code": begun["device_code"]});
    let waiting = program.post("/v1/auth/device/token", ask.clone()).await;
    assert_eq!((waiting.status.as_u16(), waiting.json()["status"].as_str()), (202, Some("pending")));
    let code = json!({"user_code": begun["user_code"].as_str().expect("text").to_lowercase().replace('-', "")});
    house.browser().post("/v1/auth/device/approve", code.clone()).await.is_error(401, "unauthorized");
    assert_eq!(ann.post("/v1/auth/device/look", code.clone()).await.json()["client"], "wrenn on laptop");
    assert_eq!(ann.post("/v1/auth/device/approve", code.clone()).await.status, 204);
    ann.post("/v1/auth/device/approve", code.clone()).await.is_error(404, "not_found");
    ann.post("/v1/auth/device/look", code).await.is_error(404, "not_found");
    let done = program.post("/v1/auth/device/token", ask.clone()).await;
    assert_eq!((done.status.as_u16(), done.json()["team_id"].as_str()), (200, Some(ann.team().as_str())));
    let key = done.json()["api_key"].as_str().expect("a key").to_owned();
    assert_eq!(ann.api(&key).get("/v1/whoami").await.json()["email"], "ann@example.com");
    program.post("/v1/auth/device/token", ask).await.is_error(400, "invalid_request");
    let listed = ann.get("/v1/api-keys").await.json();
    assert_eq!((listed[0]["personal"].as_bool(), listed[0]["name"].as_str()), (Some(true), Some("wrenn on laptop")));
}

#[tokio::test]
async fn what_is_over_odd_or_made_up_is_refused() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let mut program = house.browser();
    program.post("/v1/auth/device", json!({"client": "a\u{1b}[31m"})).await.is_error(400, "invalid_request");
    program.post("/v1/auth/device", json!({"client": "x".repeat(101)})).await.is_error(400, "invalid_request");
    let begun = program.post("/v1/auth/device", json!({})).await.json();
    for bad in ["", "zz", &"0".repeat(64)] {
        program.post("/v1/auth/device/token", json!({"device_code": bad})).await.is_error(400, "invalid_request");
    }
    for bad in ["", "AAAA-AAAA", "BCDF-GHJK"] {
        ann.post("/v1/auth/device/approve", json!({"user_code": bad})).await.is_error(404, "not_found");
    }
    house.sql("UPDATE device_logins SET expires_at = now()").await;
    ann.post("/v1/auth/device/approve", json!({"user_code": begun["user_code"]})).await.is_error(404, "not_found");
    program
        .post("/v1/auth/device/token", json!({"device_code": begun["device_code"]}))
        .await
        .is_error(400, "invalid_request");
}

#[tokio::test]
async fn the_page_runs_its_own_script_only_and_stands_in_no_frame() {
    let house = House::start().await;
    for path in ["/device?code=X", "/device/app.js", "/device/app.css"] {
        let answer = house.browser().get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.headers["content-security-policy"].to_str().expect("text");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    let page = String::from_utf8(house.browser().get("/device").await.body.to_vec()).expect("UTF-8");
    assert!(!page.contains("http://") && !page.contains("https://"), "{page}");
}
