//! Work that waits for a disk, the kernel or another process, kept off the threads of the async runtime.

/// Runs `work` on a thread that may block and returns what it returns. A panic in it goes on in the caller.
///
/// Dropping the future does not end work that has begun: it runs to its end unseen.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}
