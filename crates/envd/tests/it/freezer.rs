//! Processes stand still from a freeze until an `/init` that ends it. Needs a cgroup version 2 hierarchy, and fails without one.

use http::Method;
use wrenn_contract::guest::{INIT, Init, SNAPSHOT_FREEZE, SNAPSHOT_PREPARE};

use crate::envd::{Answer, Envd, Wish, eventually};
use crate::processes::{detached, list, lives, run, script, start};

/// Writes a growing number into a file until it is killed.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i > count.new; mv count.new count; done";

async fn freeze(envd: &Envd, number: u64) -> Answer {
    envd.call(Method::POST, &format!("{SNAPSHOT_FREEZE}?number={number}"), &[], "").await
}

async fn init(envd: &Envd, init: Init) -> Answer {
    envd.call(Method::POST, INIT, &[], serde_json::to_vec(&init).expect("JSON")).await
}

/// One whose life is "one", with a process that counts.
async fn counting() -> Envd {
    let life = Init { lifecycle_id: Some("one".into()), ..Init::default() };
    let envd = Envd::start_with(Wish { init: life, ..Wish::default() }).await;
    assert!(envd.cgroup.is_some(), "this test needs a cgroup version 2 hierarchy it may write to");
    let home = envd.home.path().display().to_string();
    start(&envd.processes(), detached(script(&format!("cd {home}; {COUNT}")))).await;
    goes_on(&envd).await;
    envd
}

fn count(envd: &Envd) -> u64 {
    let text = std::fs::read_to_string(envd.home.path().join("count")).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

async fn goes_on(envd: &Envd) {
    let before = count(envd);
    eventually("the process counts on", async || count(envd) > before).await;
}

/// The kernel says that nothing runs: a count that does not grow could be a slow machine.
fn stands_still(envd: &Envd) -> bool {
    let events = envd.cgroup.as_ref().expect("a cgroup").join("wrenn/cgroup.events");
    std::fs::read_to_string(events).expect("events").lines().any(|line| line == "frozen 1")
}

#[tokio::test]
async fn a_frozen_process_runs_again_only_when_a_new_life_is_confirmed() {
    let envd = counting().await;
    assert_eq!(envd.call(Method::POST, SNAPSHOT_PREPARE, &[], "").await.status, 204);
    let frozen = freeze(&envd, 7).await;
    assert_eq!((frozen.status.as_u16(), frozen.json()["late"].clone()), (200, serde_json::json!([])), "{frozen:?}");
    assert!(stands_still(&envd));
    let before = count(&envd);
    let refused = init(&envd, Init { lifecycle_id: Some("two".into()), entropy: Some("00".into()), ..Init::default() });
    assert_eq!(refused.await.status, 400);
    let wrong = serde_json::to_vec(&Init { lifecycle_id: Some("two".into()), ..Init::default() }).expect("JSON");
    assert_eq!(envd.call_bare(Method::POST, INIT, &[("x-access-token", "wrong")], wrong).await.status, 401);
    let same = Init { lifecycle_id: Some("one".into()), timestamp_ns: Some(1), ..Init::default() };
    assert_eq!(init(&envd, same).await.status, 200);
    assert!(stands_still(&envd) && count(&envd) == before, "no /init so far was a confirmation");
    assert_eq!(init(&envd, Init { lifecycle_id: Some("two".into()), ..Init::default() }).await.status, 200);
    goes_on(&envd).await;
    assert_eq!(freeze(&envd, 1).await.status, 200, "a new life counts its freezes anew");
}

#[tokio::test]
async fn a_release_ends_the_freezes_up_to_its_number_and_no_later_one() {
    let envd = counting().await;
    let release = |number| Init { lifecycle_id: Some("one".into()), release: Some(number), ..Init::default() };
    assert_eq!(freeze(&envd, 5).await.status, 200);
    assert_eq!(init(&envd, release(4)).await.status, 200);
    assert!(stands_still(&envd), "a late release of a former freeze");
    assert_eq!(init(&envd, release(5)).await.status, 200);
    goes_on(&envd).await;
    assert_eq!(freeze(&envd, 5).await.status, 409, "a freeze that came after its own release");
    assert!(!stands_still(&envd));
    goes_on(&envd).await;
    assert_eq!(freeze(&envd, 6).await.status, 200);
    assert!(stands_still(&envd));
    assert_eq!(init(&envd, release(6)).await.status, 200);
}

#[tokio::test]
async fn a_process_started_while_others_are_frozen_starts_with_them() {
    let envd = counting().await;
    assert_eq!(freeze(&envd, 1).await.status, 200);
    let client = envd.processes();
    let starting = tokio::spawn(async move { client.start(script("echo started")).await.is_ok() });
    let born = envd.cgroup.clone().expect("a cgroup").join("wrenn/user/2");
    eventually("it is born", async || born.is_dir()).await;
    assert!(stands_still(&envd) && !starting.is_finished());
    let release = Init { lifecycle_id: Some("one".into()), release: Some(1), ..Init::default() };
    assert_eq!(init(&envd, release).await.status, 200);
    assert!(starting.await.expect("no panic"));
    assert_eq!(run(&envd, script("echo again")).await.text(), "again\n");
}

#[tokio::test]
async fn a_cgroup_its_user_froze_stays_frozen() {
    let envd = counting().await;
    let own = envd.cgroup.as_ref().expect("a cgroup").join("wrenn/user/1/cgroup.freeze");
    std::fs::write(&own, "1").expect("frozen by its user");
    assert_eq!(freeze(&envd, 1).await.status, 200);
    let release = Init { lifecycle_id: Some("one".into()), release: Some(1), ..Init::default() };
    assert_eq!(init(&envd, release).await.status, 200);
    assert_eq!(std::fs::read_to_string(&own).expect("read").trim(), "1");
    std::fs::write(&own, "0").expect("thawed by its user");
    goes_on(&envd).await;
}

#[tokio::test]
async fn a_resume_ends_what_a_stream_owned_and_a_copy_keeps_it() {
    let names =
        |id: &str, life: &str| Init { lifecycle_id: Some(life.into()), sandbox_id: Some(id.into()), ..Init::default() };
    let envd = Envd::start_with(Wish { init: names("cl-one", "one"), ..Wish::default() }).await;
    let client = envd.processes();
    let mut owned = start(&client, script("sleep 1000")).await;
    let owned = owned.pid().await;
    start(&client, detached(script("sleep 1001"))).await;
    assert_eq!(list(&client).await.len(), 2);
    assert_eq!(init(&envd, names("cl-two", "two")).await.status, 200);
    assert!(lives(owned), "a copy keeps what runs");
    assert_eq!(init(&envd, names("cl-two", "three")).await.status, 200);
    eventually("it is ended", async || !lives(owned)).await;
    eventually("one is left", async || list(&client).await.len() == 1).await;
}

#[tokio::test]
async fn without_cgroups_a_freeze_stops_nothing_and_says_nothing_is_late() {
    let envd = Envd::start_with(Wish { without_cgroup: true, ..Wish::default() }).await;
    assert_eq!(freeze(&envd, 1).await.json()["late"], serde_json::json!([]));
    assert_eq!(envd.call(Method::POST, SNAPSHOT_FREEZE, &[], "").await.status, 400, "a freeze has a number");
    assert_eq!(envd.call(Method::POST, &format!("{SNAPSHOT_FREEZE}?number=-1"), &[], "").await.status, 400);
}
