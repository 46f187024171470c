//! The harness itself: without it no other test says anything.

use http::Method;
use wrenn_contract::guest::HEALTH;

use crate::envd::Envd;

#[tokio::test]
async fn an_envd_starts_answers_and_is_gone_with_its_value() {
    let envd = Envd::start().await;
    assert_eq!(envd.call_bare(Method::GET, HEALTH, &[], "").await.status, 200);
    assert_eq!(envd.call(Method::GET, "/no/such/route", &[], "").await.status, 404);
    assert_eq!(envd.call_bare(Method::GET, "/no/such/route", &[], "").await.status, 401);
    let (pid, cgroup) = (envd.pid(), envd.cgroup.clone());
    drop(envd);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(cgroup.is_none_or(|cgroup| !cgroup.exists()));
}
