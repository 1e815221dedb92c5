//! How a request comes to be kept.

use super::keeper::{Keeper, TRIES, queue_of, store_fault};
use super::standing::Standing;
use super::stored::{self, Api, Stored};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use stageline_base::{Fault, FaultClass, Trace, hex};
use stageline_core::durable::{Accepted, Life, Logged, Wall};
use stageline_metrics::Kept as Event;
use stageline_proto::durable as pb;
use stageline_store::{Name, StoreError};
use std::time::Duration;

/// After how long a client may try again that was refused for want of room.
pub(super) const FULL_FOR: Duration = Duration::from_secs(5);
/// Bytes of a request's id.
const ID_BYTES: usize = 16;

/// What makes two calls the same request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key<'a> {
    /// The client's Idempotency-Key.
    Idempotency(&'a str),
    /// The call's id.
    Call(&'a str),
    /// The number of a job in the work queue.
    Job(u64),
}

/// A request that is to be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    /// Whose it is.
    pub principal: &'a str,
    /// What makes it the same as another.
    pub key: Key<'a>,
    /// Its id.
    pub call_id: &'a str,
    /// The trace that it belongs to.
    pub trace: Trace,
    /// By which API it came.
    pub api: Api,
    /// Of its body.
    pub content_type: &'a str,
    /// What was sent.
    pub body: &'a [u8],
    /// How long it may take.
    pub time: Duration,
    /// Whom to tell of its end.
    pub callback: Option<&'a str>,
}

/// A request that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Its id among durable requests, and its log.
    pub log: Name,
    /// As it was accepted: by this call, or by the one that this call joins.
    pub stored: Stored,
    /// Whether it was there already.
    pub joined: bool,
}

/// Why a request is not kept.
#[derive(Clone, Debug)]
pub(crate) enum Declined {
    /// The key was used for another body.
    OtherBody,
    /// Anything else.
    Fault(Fault),
}

/// What a client is told whose request has no place among those that wait.
fn no_job(error: &StoreError) -> Fault {
    match error {
        StoreError::Crowded { .. } => {
            let words = "as many requests as may wait do: try again later";
            Fault::new(FaultClass::Overloaded, words).again_after(FULL_FOR)
        }
        error => store_fault(error),
    }
}

impl From<Fault> for Declined {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Keeper {
    pub(super) fn log_of(principal: &str, key: Key<'_>) -> Option<Name> {
        let (kind, text) = match key {
            Key::Idempotency(text) => ("key", text.to_owned()),
            Key::Call(text) => ("call", text.to_owned()),
            Key::Job(number) => ("job", number.to_string()),
        };
        let mut hash = Sha256::new();
        for part in [kind, principal, &text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Name::new("request", &hex(&hash.finalize()[..ID_BYTES]))
    }

    /// Accepts a request, or joins the one that it repeats: once this says so, it is answered whatever dies.
    ///
    /// # Errors
    /// `Overloaded` where as many wait as may, `Unavailable` if the store is full or away, [`Declined::OtherBody`].
    pub(crate) async fn accept(&self, asking: Asking<'_>) -> Result<Kept, Declined> {
        let log = Self::log_of(asking.principal, asking.key).ok_or_else(|| Fault::internal("a name is no name"))?;
        let (stored, record) = self.begun(asking);
        for _ in 0..TRIES {
            match self.logs.append(&log, 0, &record).await {
                Ok(position) => return self.accepted((log, position), stored, &record).await,
                // Somebody was faster, or it was this call: the log says who.
                Err(StoreError::Conflict { .. } | StoreError::Unknown) => {
                    if let Some(kept) = self.joined(&log, &stored).await? {
                        return Ok(kept);
                    }
                }
                Err(error) => return Err(store_fault(&error).into()),
            }
        }
        Err(store_fault(&StoreError::Unknown).into())
    }

    /// The request, and the first record of its log.
    pub(super) fn begun(&self, asking: Asking<'_>) -> (Stored, [Logged; 1]) {
        let now = self.clock.now();
        let stored = Stored::new(pb::DurableRequest {
            call_id: asking.call_id.to_owned(),
            traceparent: asking.trace.to_string(),
            principal: asking.principal.to_owned(),
            digest: Bytes::copy_from_slice(&stored::digest(asking.body)),
            manifest: self.setup.manifest.clone(),
            api: asking.api.into(),
            content_type: asking.content_type.to_owned(),
            body: Bytes::copy_from_slice(asking.body),
            seed: self.draw(),
            callback_url: asking.callback.unwrap_or_default().to_owned(),
            accepted_unix_ms: now.0,
            idempotency_key: String::new(),
        });
        let time = u64::try_from(asking.time.min(self.setup.timeout).as_millis()).unwrap_or(u64::MAX);
        let (deadline, callback) = (Wall(now.0.saturating_add(time)), asking.callback.is_some());
        let accepted = Accepted { request: stored.encode(), deadline, callback };
        (stored, [Logged::Accepted(accepted)])
    }

    /// Its log begins at `position`: its job follows. Where that has no place, the log goes again.
    async fn accepted(
        &self,
        (log, position): (Name, u64),
        stored: Stored,
        record: &[Logged],
    ) -> Result<Kept, Declined> {
        let error = match self.push(&log, &stored).await {
            Ok(()) => {
                self.count(Event::Accepted);
                return Ok(Kept { log, stored, joined: false });
            }
            Err(error) => error,
        };
        // Its job may be there: it may be run, and who asks again joins it.
        if error == StoreError::Unknown {
            return Err(store_fault(&error).into());
        }
        let fault = no_job(&error);
        // Refused if another has joined it meanwhile, who has pushed a job of its own.
        let mut ended = Life::of([(position, record)]);
        ended.ended = Some((Err(fault.clone()), self.clock.now()));
        let _ = self.logs.finish(&log, position, &ended.whole(None), Duration::from_secs(1)).await;
        Err(fault.into())
    }

    /// Has a door of the manifest that it was accepted for take it.
    pub(super) async fn push(&self, log: &Name, stored: &Stored) -> Result<(), StoreError> {
        // What says otherwise was never accepted: it is no request, and nobody runs it.
        let queue = queue_of(stored.manifest()).unwrap_or_else(|| self.queue.clone());
        self.setup.store.push(&queue, log.to_string().into()).await
    }

    /// The request that is there already, if it is; `None` where it has gone meanwhile.
    async fn joined(&self, log: &Name, ours: &Stored) -> Result<Option<Kept>, Declined> {
        let Some(Standing { life, stored, .. }) = self.standing(log).await? else { return Ok(None) };
        if !stored.is_like(ours) {
            return Err(Declined::OtherBody);
        }
        let joined = stored != *ours;
        self.count(if joined { Event::Joined } else { Event::Accepted });
        let kept = Kept { log: log.clone(), stored, joined };
        if life.ended.is_some() || life.job.is_some() {
            return Ok(Some(kept));
        }
        // Whoever began it may not have got to its job, or may be about to take it back: neither can happen behind this.
        match self.logs.append(log, life.last, &[Logged::Requeued]).await {
            Ok(_) => self.push(log, &kept.stored).await.map(|()| Some(kept)).map_err(|error| no_job(&error).into()),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(store_fault(&error).into()),
        }
    }
}
