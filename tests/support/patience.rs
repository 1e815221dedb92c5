//! The end of waiting: what hangs fails.

use std::time::Duration;

/// Turns a hang into a failure. No test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// The value of `future`, within [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("still waiting for {what}"),
    }
}

/// The first value that `look` finds. For what happens in another process or thread and cannot be awaited; who looks again
/// and again hides no race, since the deadline only turns a hang into a failure.
pub async fn found<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    let looking = async {
        loop {
            beat.tick().await;
            if let Some(value) = look().await {
                return value;
            }
        }
    };
    soon(what, looking).await
}
