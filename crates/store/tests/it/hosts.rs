//! Hosts: registration, news, silence, and who listens.

use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::ids::{HostId, PLATFORM_TEAM};
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::{Change, Changed, HostFacts, HostImage, HostStatus, TemplateKind};
use wrenn_testkit::Database;

use crate::rows::{facts, host, place, team, wish};

#[tokio::test]
async fn one_address_is_one_host_however_often_it_is_registered() {
    let store = Database::fresh().await.store();
    let ask = || store.host_ensure("http://a", HostId::from_uuid(Uuid::new_v4()));
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let one = one.expect("a host");
    assert!(two.expect("a host") == one && three.expect("a host") == one);
    assert_eq!(store.host_list().await.expect("hosts")[0].status, HostStatus::Pending);
    assert!(store.host_loads().await.expect("loads").is_empty(), "a pending host takes nothing");
    store.host_seen(one, Some(&facts(1024))).await.expect("seen");
    assert_eq!(store.host_list().await.expect("hosts")[0].status, HostStatus::Online);
    assert_eq!(store.host_loads().await.expect("loads")[0].memory_mib, 1024);
}

#[tokio::test]
async fn images_become_templates_of_everybody_once() {
    let store = Database::fresh().await.store();
    let (team, own) = (team(&store).await, "minimal".parse().expect("a name"));
    assert!(store.template_get(team, &own).await.expect("asked").is_none());
    host(&store).await;
    host(&store).await;
    let list = store.template_list(team, None).await.expect("templates");
    assert_eq!(list.len(), 1);
    assert!(list[0].platform && list[0].protected && list[0].kind == TemplateKind::Base);
    let found = store.template_get(team, &own).await.expect("asked").expect("there");
    assert_eq!((found.size_bytes, found.id.uuid()), (1, Uuid::nil()));
    assert!(store.template_list(PLATFORM_TEAM, Some(TemplateKind::Snapshot)).await.expect("templates").is_empty());
}

#[tokio::test]
async fn a_host_says_nothing_of_an_image_that_another_holds_and_a_teams_own_nothing_of_the_platforms() {
    let store = Database::fresh().await.store();
    let (one, name) = (host(&store).await, "minimal".parse().expect("a name"));
    let size = async || store.template_get(PLATFORM_TEAM, &name).await.expect("asked").expect("there").size_bytes;
    let report = |image: &str, size_bytes| HostFacts {
        images: vec![HostImage { name: image.parse().expect("a name"), size_bytes }],
        ..facts(8192)
    };
    store.host_seen(one, Some(&report("minimal", 2))).await.expect("seen");
    assert_eq!(size().await, 2, "the only one that holds it");
    let other = host(&store).await;
    store.host_seen(other, Some(&report("minimal", 7))).await.expect("seen");
    assert_eq!(size().await, 2);
    sqlx::query("UPDATE hosts SET type = 'byoc' WHERE id = $1")
        .bind(other.uuid())
        .execute(store.pool())
        .await
        .expect("set");
    store.host_seen(other, Some(&report("theirs", 1))).await.expect("seen");
    let theirs = store.template_get(PLATFORM_TEAM, &"theirs".parse().expect("a name")).await.expect("asked");
    assert!(theirs.is_none(), "{theirs:?}");
}

#[tokio::test]
async fn only_one_listens_to_a_host_until_its_lease_ends() {
    let store = Database::fresh().await.store();
    let id = host(&store).await;
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let long = Duration::from_secs(60);
    assert!(store.host_watch(id, one, long).await.expect("asked"));
    assert!(store.host_watch(id, one, long).await.expect("asked"), "and stays the one");
    assert!(!store.host_watch(id, two, long).await.expect("asked"));
    assert!(store.host_watch(id, one, Duration::ZERO).await.expect("asked"));
    assert!(store.host_watch(id, two, long).await.expect("asked"), "after the lease");
    store.host_unwatch_all(two).await.expect("released");
    assert!(store.host_watch(id, one, long).await.expect("asked"), "after it was given back");
}

#[tokio::test]
async fn a_silent_hosts_living_sandboxes_become_missing_and_the_others_stay() {
    let store = Database::fresh().await.store();
    let (team, silent, loud) = (team(&store).await, host(&store).await, host(&store).await);
    let mut made = Vec::new();
    for state in [
        SandboxState::Starting,
        SandboxState::Running,
        SandboxState::Paused,
        SandboxState::Stopping,
        SandboxState::Error,
    ] {
        let row = place(&store, &wish(team), silent, Duration::ZERO).await;
        let change = Change { state: Some(state), ..Change::default() };
        let Changed::Applied(row) = store.sandbox_change(row.id, row.generation, &change).await.expect("asked") else {
            panic!("applied")
        };
        made.push(row);
    }
    let elsewhere = place(&store, &wish(team), loud, Duration::ZERO).await;
    sqlx::query("UPDATE hosts SET last_seen_at = now() - interval '91 s' WHERE id = $1")
        .bind(silent.uuid())
        .execute(store.pool())
        .await
        .expect("updated");
    assert_eq!(store.host_mark_silent(Duration::from_secs(90)).await.expect("asked"), 2);
    assert_eq!(store.host_mark_silent(Duration::from_secs(90)).await.expect("asked"), 0, "once");
    let now = |id| {
        let store = store.clone();
        async move { store.sandbox_get(team, id).await.expect("asked").expect("there").state }
    };
    let mut states = Vec::new();
    for row in &made {
        states.push(now(row.id).await.as_str());
    }
    assert_eq!(states, ["missing", "missing", "paused", "stopping", "error"]);
    assert_eq!(now(elsewhere.id).await, SandboxState::Starting);
    store.host_seen(silent, None).await.expect("seen");
    assert!(store.host_list().await.expect("hosts").iter().all(|h| h.status == HostStatus::Online));
}
