//! API keys: who they speak for, and how soon a revoked one is dead.

use wrenn_store::redis::Redis;
use wrenn_testkit::wait_until;

use crate::harness::{SOON, World};

#[tokio::test]
async fn a_revoked_key_is_dead_by_the_age_of_the_cache_without_redis_news() {
    let world = World::start().await;
    assert_eq!(world.api.get("/v1/capsules").await.status, 200);
    let store = world.database.store();
    let key = store.key_list().await.expect("keys").remove(0);
    store.key_revoke(key.id).await.expect("revoked").expect("there is one");
    wait_until("the key is refused", SOON, || async {
        (world.api.get("/v1/capsules").await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn redis_news_of_a_revoked_key_kills_it_at_once() {
    let world = World::start().await;
    let store = world.database.store();
    let redis = Redis::new(&world.database.redis_url, &world.database.redis_prefix).expect("a handle");
    let key = store.key_list().await.expect("keys").remove(0);
    // Until the subscription stands nobody hears; the loop asks again with a key that is looked up anew each second.
    let hash = store.key_revoke(key.id).await.expect("revoked").expect("there is one");
    wait_until("the key is refused", SOON, || async {
        redis.key_revoked(&hash).await.expect("Redis answers");
        (world.api.get("/v1/capsules").await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_use_of_a_key_is_noted_off_the_path() {
    let world = World::start().await;
    let store = world.database.store();
    wait_until("last_used is set", SOON, || async {
        assert_eq!(world.api.get("/v1/capsules").await.status, 200);
        store.key_list().await.expect("keys").remove(0).last_used.map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn one_team_name_is_one_team_however_many_keys_are_made_at_once() {
    let world = World::start().await;
    let store = world.database.store();
    let made = (0..8).map(|n| {
        let store = store.clone();
        async move { wrenn_control::service::keys::create(&store, "crowd", &format!("k{n}")).await.expect("a key").1 }
    });
    let teams: std::collections::BTreeSet<_> = futures::future::join_all(made).await.into_iter().collect();
    assert_eq!(teams.len(), 1);
}

#[tokio::test]
async fn names_without_text_are_refused() {
    let world = World::start().await;
    let store = world.database.store();
    for (team, name) in [("", "k"), ("  ", "k"), ("t", ""), ("t\n", "k\0"), (&"x".repeat(129), "k")] {
        assert!(wrenn_control::service::keys::create(&store, team, name).await.is_err(), "{team:?} {name:?}");
    }
}
