//! Waiting for a condition, with a bound. Tests never sleep and hope.

use std::future::Future;
use std::time::Duration;

/// Asks `condition` again and again until it gives a value. Panics after `bound`, naming what was waited for.
pub async fn wait_until<T, F, Fut>(what: &str, bound: Duration, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + bound;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {bound:?} in vain for: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
