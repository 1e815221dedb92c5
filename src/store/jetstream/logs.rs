//! Reading logs at a broker.

use super::{JetStream, RETRY, direct, unavailable};
use crate::{Following, Name, Record, StoreError};
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

/// Far beyond any sequence number, and one less than what one more can be added to.
const LAST_SEQUENCE: u64 = i64::MAX as u64;

impl JetStream {
    /// See [`crate::Store::read`].
    pub(super) async fn read_log(&self, log: &Name, after: u64) -> Result<Vec<Record>, StoreError> {
        let subject = self.subject("log", log);
        let (mut records, mut after, begun_at) = (Vec::new(), after.min(LAST_SEQUENCE), after);
        loop {
            let get = direct::Get::after(&subject, after);
            let page = direct::ask(&self.shared.context, &self.shared.logs, &get).await?;
            // A page may be shorter than it might be: the broker bounds it in bytes, too.
            let Some(last) = page.last() else { break };
            after = last.sequence;
            records.extend(page.into_iter().map(|found| Record { position: found.sequence, bytes: found.bytes }));
        }
        if records.is_empty() && begun_at == 0 {
            self.is_not_there(&subject).await?;
        }
        Ok(records)
    }

    /// See [`crate::Store::follow`].
    pub(super) fn follow_log(&self, log: &Name, after: u64) -> Following {
        let subject = self.subject("log", log);
        let after = after.min(LAST_SEQUENCE);
        let begun = (self.clone(), subject, after, None::<pull::Ordered>);
        Box::pin(stream::try_unfold(begun, |(store, subject, mut after, mut messages)| async move {
            loop {
                let Some(listening) = &mut messages else {
                    let config = pull::OrderedConfig {
                        filter_subject: subject.clone(),
                        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
                        ..pull::OrderedConfig::default()
                    };
                    let listening = async {
                        let consumer = store.shared.logs.create_consumer(config).await.ok()?;
                        consumer.messages().await.ok()
                    };
                    messages = listening.await;
                    if messages.is_none() {
                        // The broker is away, most likely.
                        sleep(RETRY).await;
                    }
                    continue;
                };
                match listening.next().await {
                    Some(Ok(message)) => {
                        let Ok(info) = message.info() else { continue };
                        let position = info.stream_sequence;
                        if position > after {
                            after = position;
                            let record = Record { position, bytes: message.payload.clone() };
                            return Ok(Some((record, (store, subject, after, messages))));
                        }
                    }
                    Some(Err(_)) | None => {
                        messages = None;
                        sleep(RETRY).await;
                    }
                }
            }
        }))
    }

    /// See [`crate::Store::logs`].
    pub(super) async fn list_logs(
        &self,
        kind: &str,
        after: Option<&Name>,
        most: usize,
    ) -> Result<Vec<(Name, Record)>, StoreError> {
        let prefix = format!("{}.log.", self.shared.settings.subject);
        let listed = self.shared.logs.info_with_subjects(format!("{prefix}{kind}.*")).await;
        let listed = listed.map_err(|error| unavailable("the logs cannot be listed", error))?;
        let subjects: Vec<(String, usize)> =
            listed.try_collect().await.map_err(|error| unavailable("the logs cannot be listed", error))?;
        let mut subjects: Vec<String> = subjects.into_iter().map(|(subject, _)| subject).collect();
        subjects.sort_unstable();
        // Names of one kind and their subjects have one order.
        if let Some(after) = after.map(|after| format!("{prefix}{after}")) {
            subjects.retain(|subject| *subject > after);
        }
        subjects.truncate(most);
        let mut logs = Vec::with_capacity(subjects.len());
        for page in subjects.chunks(direct::PAGE) {
            let mut left = page.to_vec();
            // A page may be shorter than it might be. What is never there has gone meanwhile.
            while !left.is_empty() {
                let found = direct::ask(&self.shared.context, &self.shared.logs, &direct::Get::last(&left)).await?;
                if found.is_empty() {
                    break;
                }
                left.retain(|subject| found.iter().all(|found| found.subject != *subject));
                for direct::Found { subject, sequence, bytes, .. } in found {
                    let Some(name) = subject.strip_prefix(&prefix).and_then(Name::parse) else { continue };
                    logs.push((name, Record { position: sequence, bytes }));
                }
            }
        }
        logs.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(logs)
    }

    /// Asks the one broker that cannot lag behind: others answer direct questions too, and an empty log is taken for one that is over.
    async fn is_not_there(&self, subject: &str) -> Result<(), StoreError> {
        match self.shared.logs.get_last_raw_message_by_subject(subject).await {
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(()),
            Err(error) => Err(unavailable("the broker does not say what it stores", error)),
            Ok(_) => Err(unavailable("the broker does not say what it stores", "one of its copies lags behind")),
        }
    }
}
