//! The API description and its viewer.

use crate::harness::World;

#[tokio::test]
async fn the_description_is_generated_and_complete() {
    let world = World::start().await;
    let answer = world.api.get("/openapi.yaml").await;
    assert_eq!(answer.headers["content-type"], "application/yaml");
    let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    assert!(text.contains("version: test"), "the running version is shown");
    insta::assert_snapshot!("openapi", text);
}

#[tokio::test]
async fn every_operation_is_known_by_a_name_of_its_own_and_names_its_errors() {
    let api = wrenn_control::rest::completed_description();
    assert_eq!(wrenn_contract::rest::description::unknown_operations(&api), Vec::<String>::new());
    let mut operations = 0;
    for (path, item) in api["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            operations += 1;
            for (status, answer) in operation["responses"].as_object().expect("answers") {
                let has_text = answer["description"].as_str().is_some_and(|text| !text.is_empty());
                assert!(has_text, "{method} {path} {status}");
                let is_error = status.parse::<u16>().expect("a number") >= 400 && path != "/health";
                assert_eq!(is_error, answer["x-error-codes"].is_array(), "{method} {path} {status}");
            }
        }
    }
    assert_eq!(operations, wrenn_contract::rest::description::OPERATIONS_COUNT, "the table names one that is gone");
}

#[tokio::test]
async fn the_description_is_also_served_as_json_and_in_the_form_of_openapi_3_0() {
    let world = World::start().await;
    for (path, version) in [("/openapi.json", "3.1.0"), ("/openapi-3.0.json", "3.0.3")] {
        let answer = world.api.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.json()["openapi"].as_str()), (200, Some(version)), "{path}");
    }
}

#[tokio::test]
async fn the_viewer_needs_nothing_from_elsewhere() {
    let world = World::start().await;
    let page = world.api.get("/docs/").await;
    assert_eq!(page.status, 200);
    let html = String::from_utf8(page.body.to_vec()).expect("UTF-8");
    assert!(!html.contains("//"), "the page names another place:\n{html}");
    let mut names = Vec::new();
    for piece in html.split("src=\"").skip(1).chain(html.split("href=\"").skip(1)) {
        let name = piece.split('"').next().expect("a value");
        names.push(name.trim_start_matches("./").to_owned());
    }
    assert!(names.len() >= 4, "{names:?}");
    for name in &names {
        let file = world.api.get(&format!("/docs/{name}")).await;
        assert_eq!(file.status, 200, "{name}");
        assert!(!file.body.is_empty(), "{name}");
    }
    let start = world.api.get("/docs/swagger-initializer.js").await;
    let script = String::from_utf8(start.body.to_vec()).expect("UTF-8");
    assert!(script.contains("/openapi.yaml"), "{script}");
    let policy = page.headers["content-security-policy"].to_str().expect("text");
    assert!(policy.starts_with("default-src 'self'"), "{policy}");
    assert_eq!(world.api.get("/docs").await.status, 308);
}
