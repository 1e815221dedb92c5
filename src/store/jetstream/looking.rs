//! Looks after the streams while the store is open: how full the logs are, and whether the streams are still there.

use super::{Shared, streams};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use futures::future::join_all;
use std::sync::atomic::Ordering::Relaxed;

impl Shared {
    /// Takes one look.
    pub(super) async fn look(&self) {
        let names = streams::names(&self.settings);
        let found = join_all(names.iter().map(|name| self.context.get_stream(name))).await;
        let mut lost = Vec::new();
        for (name, found) in names.iter().zip(found) {
            match found {
                Ok(stream) if *name == streams::logs(&self.settings) => {
                    let there = stream.cached_info();
                    // Keeps an eighth of it for the logs that are there already: one that cannot be ended never makes room.
                    let most = u64::try_from(there.config.max_bytes).unwrap_or(u64::MAX);
                    self.nearly_full.store(there.state.bytes > most - most / 8, Relaxed);
                }
                Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND) =>
                {
                    lost.push(name.as_str());
                }
                // A broker that is away, or does not say, has lost nothing as far as is known.
                Ok(_) | Err(_) => {}
            }
        }
        if !lost.is_empty() {
            self.make_again(&lost.join(", ")).await;
        }
    }

    /// Makes the streams that the broker came back without, or that somebody removed. What was in them is lost; what is asked from
    /// now on is kept again.
    async fn make_again(&self, lost: &str) {
        match streams::make(&self.context, &self.settings).await {
            // The handles that there are know a stream by its name alone; a queue's consumer went with its stream.
            Ok(_) => {
                self.queues.lock().await.clear();
                self.is_lacking.store(false, Relaxed);
                tracing::warn!(
                    "the broker has lost {lost}: what was kept there is lost; durable requests are taken again"
                );
            }
            Err(error) => {
                if !self.is_lacking.swap(true, Relaxed) {
                    tracing::warn!(%error, "the broker has lost {lost}, and cannot make that again: no durable request can be taken");
                }
            }
        }
    }
}
