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
