//! Looking again and again, where nothing can be awaited.

use crate::patience::soon;
use std::time::Duration;

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
