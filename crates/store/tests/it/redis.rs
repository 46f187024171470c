//! Redis.

use std::time::Duration;

use wrenn_store::redis::Redis;
use wrenn_testkit::{Database, wait_until};

#[tokio::test]
async fn revoked_keys_are_heard_under_the_same_prefix_only() {
    let database = Database::empty().await;
    let redis = Redis::new(&database.redis_url, &database.redis_prefix).expect("a handle");
    let other = Redis::new(&database.redis_url, "other:").expect("a handle");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let ear = redis.clone();
    let listening = tokio::spawn(async move { ear.revoked_keys(|hash| drop(tell.send(hash.to_owned()))).await });
    let heard = wait_until("the news is heard", Duration::from_secs(10), || {
        let news = told.try_recv().ok();
        let (redis, other) = (redis.clone(), other.clone());
        async move {
            if news.is_none() {
                other.key_revoked("theirs").await.expect("published");
                redis.key_revoked("ours").await.expect("published");
            }
            news
        }
    })
    .await;
    assert_eq!(heard, "ours");
    listening.abort();
}

#[tokio::test]
async fn a_redis_that_is_away_fails_quickly_and_harms_nobody() {
    let redis = Redis::new("redis://127.0.0.1:1/", "x:").expect("a handle");
    let began = std::time::Instant::now();
    assert!(redis.ping().await.is_err());
    assert!(redis.key_revoked("x").await.is_err());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
