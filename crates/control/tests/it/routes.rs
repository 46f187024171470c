//! Every route of the description, whoever wrote it: who is let in, what a write needs, what a broken body gets.

use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::Answer;
use crate::people::{Browser, House};

/// A route as the description has it.
struct Route {
    method: Method,
    path: String,
    by_session: bool,
    by_key: bool,
    takes_json: bool,
}

impl Route {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn writes(&self) -> bool {
        self.method != Method::GET
    }
}

/// The path with ids that are well formed and name nothing.
fn filled(path: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.split('/') {
        let before = parts.last().map_or("", String::as_str);
        parts.push(match part {
            "{id}" if before == "sessions" => "0".repeat(64),
            "{id}" | "{user_id}" | "{uid}" => {
                let prefix = match before {
                    "capsules" => "cl",
                    "teams" => "team",
                    "users" | "members" => "usr",
                    "api-keys" => "key",
                    "channels" => "ch",
                    other => panic!("what ids stand after {other}? {path}"),
                };
                format!("{prefix}-0000000000000000000000000")
            }
            "{port}" => "80".to_owned(),
            part if part.starts_with('{') => "x".to_owned(),
            part => part.to_owned(),
        });
    }
    parts.join("/")
}

async fn routes(house: &House) -> Vec<Route> {
    let text = house.browser().get("/openapi.yaml").await.body;
    let description: Value = serde_yaml_ng::from_slice(&text).expect("YAML");
    let mut routes = Vec::new();
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for (method, told) in methods.as_object().expect("methods") {
            let Ok(method) = method.to_ascii_uppercase().parse::<Method>() else { continue };
            if !told.is_object() {
                continue;
            }
            let by = |scheme: &str| {
                let ways = told["security"].as_array().map(Vec::as_slice).unwrap_or_default();
                ways.iter().any(|way| way.get(scheme).is_some())
            };
            routes.push(Route {
                method,
                path: filled(path),
                by_session: by("session"),
                by_key: by("api_key"),
                takes_json: told["requestBody"]["content"].get("application/json").is_some(),
            });
        }
    }
    assert!(routes.len() > 80, "the description lost routes: {}", routes.len());
    routes
}

async fn send(browser: &Browser, route: &Route, change: impl FnOnce(&mut Request<Full<bytes::Bytes>>)) -> Answer {
    let mut request = browser.request(route.method.clone(), &route.path).body(Full::default()).expect("valid");
    if route.takes_json {
        request.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
        *request.body_mut() = Full::from("{}");
    }
    change(&mut request);
    browser.clone().send(request).await
}

fn told(answer: &Answer) -> (u16, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status.as_u16(), body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn every_route_lets_in_whom_its_description_says_and_no_other() {
    let house = House::start().await;
    let admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let mut wrong = Vec::new();
    let mut expect = |route: &Route, who: &str, answer: &Answer, status: u16, code: &str| {
        if told(answer) != (status, code.to_owned()) {
            wrong.push(format!("{} {who}: {:?} instead of {status} {code}", route.name(), told(answer)));
        }
    };
    for route in routes(&house).await {
        // An address of its own each time: addresses are limited.
        let stranger = house.browser();
        let (mut as_ann, mut as_admin) = (ann.clone(), admin.clone());
        as_ann.address.clone_from(&stranger.address);
        as_admin.address.clone_from(&stranger.address);
        if route.by_session || route.by_key {
            expect(&route, "without credential", &send(&stranger, &route, |_| {}).await, 401, "unauthorized");
            let answer = send(&stranger, &route, |request| {
                let made_up = format!("wrenn_sid={}", "0".repeat(64)).parse().expect("a value");
                request.headers_mut().insert("cookie", made_up);
            });
            expect(&route, "with a made-up session", &answer.await, 401, "unauthorized");
        }
        if route.by_key {
            let answer = send(&stranger, &route, |request| {
                let made_up = "wrn_00000000000000000000000000000000".parse().expect("a value");
                request.headers_mut().insert("x-api-key", made_up);
            });
            expect(&route, "with a made-up key", &answer.await, 401, "unauthorized");
        }
        if route.by_session && !route.by_key {
            let answer = send(&stranger, &route, |request| {
                request.headers_mut().insert("x-api-key", key.parse().expect("a value"));
            });
            expect(&route, "with a key", &answer.await, 401, "unauthorized");
        }
        if route.by_session && route.writes() {
            let without = send(&as_ann, &route, |request| {
                request.headers_mut().remove("x-csrf-token");
            });
            expect(&route, "without CSRF token", &without.await, 403, "forbidden");
            let others = send(&as_ann, &route, |request| {
                let token = admin.cookies["wrenn_csrf"].parse().expect("a value");
                request.headers_mut().insert("x-csrf-token", token);
            });
            expect(&route, "with another's CSRF token", &others.await, 403, "forbidden");
        }
        if route.path.starts_with("/v1/admin/") {
            expect(&route, "as no admin", &send(&as_ann, &route, |_| {}).await, 403, "forbidden");
        }
        if route.takes_json {
            for (what, body) in [("half a body", "{"), ("a list", "[]"), ("no JSON", "\u{0}")] {
                let broken = send(&as_admin, &route, |request| *request.body_mut() = Full::from(body)).await;
                expect(&route, what, &broken, 400, "invalid_request");
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    for browser in [&admin, &ann] {
        assert_eq!(browser.get("/v1/me").await.status, 200, "nothing of it did anything");
    }
    let login = json!({"email": "ann@example.com", "password": crate::people::PASSWORD});
    assert_eq!(house.browser().post("/v1/auth/login", login).await.status, 200);
}
