//! How a run comes to be kept.

use super::keeper::{ADMIN, INLINE_BYTES, Keeper, TRIES, locked, no_name, store_fault, unread_fault};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use stageline_base::{Fault, FaultClass, hex};
use stageline_flow::definition::Flow;
use stageline_flow::run::{Accepted, Logged, Moment};
use stageline_store::{Name, StoreError};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// How long a count of runs that have not ended counts.
const COUNTED: Duration = Duration::from_secs(1);
/// Bytes of a run's id.
const ID_BYTES: usize = 16;

/// A run that is to be begun.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The flow.
    pub flow: &'a Flow,
    /// The digest of its file, as [`Keeper::define`] gave it.
    pub definition: &'a str,
    /// With what: a Content-Type, empty where there is none, and a body.
    pub input: (&'a str, &'a Bytes),
    /// Whose it is.
    pub principal: &'a str,
    /// The id that its caller knows it by.
    pub call_id: &'a str,
    /// What makes it the same as another of the principal's: the caller's key, else the call's id.
    pub key: Option<&'a str>,
    /// Who is told of its end.
    pub callback: Option<&'a str>,
    /// How long it may take, if that is less than the flow's time.
    pub time: Option<Duration>,
}

/// A run that was begun.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its log, whose token is its id.
    pub log: Name,
    /// Whether it was there already.
    pub joined: bool,
}

/// Why a run is not begun.
#[derive(Clone, Debug)]
pub enum Declined {
    /// The key was used for another input, or another flow.
    OtherInput,
    /// Anything else.
    Fault(Fault),
}

impl From<Fault> for Declined {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// SHA-256 of parts, none of which runs into the next, in hexadecimal.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

impl Keeper {
    /// Begins a run, or joins the one that it repeats: once this says so, it comes to an end whatever dies.
    ///
    /// # Errors
    /// `Overloaded` where as many wait as may, `Unavailable` if the store is full or away, `TooLarge`; [`Declined::OtherInput`].
    pub async fn start(&self, start: Start<'_>) -> Result<Started, Declined> {
        let (kind, body) = start.input;
        let key = start.key.map_or(("call", start.call_id), |key| ("key", key));
        let token = digest([key.0.as_bytes(), start.principal.as_bytes(), key.1.as_bytes()]);
        let log = Name::new("run", &token[..2 * ID_BYTES]).ok_or_else(no_name)?;
        let digest = digest([start.flow.name.as_bytes(), kind.as_bytes(), body]);
        // What is there already needs no other copy of a body that is kept beside the log.
        if body.len() > INLINE_BYTES
            && let Some(started) = self.joined(&log, &digest, start.flow.priority).await?
        {
            return Ok(started);
        }
        let now = self.clock.now();
        let time = start.time.unwrap_or(start.flow.timeout).min(start.flow.timeout);
        let accepted = Accepted {
            flow: start.flow.name.clone(),
            definition: start.definition.to_owned(),
            input: self.kept(log.token(), kind, body.clone()).await?,
            deadline: self.clock.after(time),
            callback: start.callback.or(start.flow.callback_url.as_deref()).map(str::to_owned),
            principal: start.principal.to_owned(),
            call_id: start.call_id.to_owned(),
            digest,
            // Of the system's randomness: one that could be told from others would let who calls name secrets.
            nonce: RandomState::new().hash_one(now.0),
            retain_s: start.flow.retain.as_secs(),
        };
        let record = [Moment { at: now, said: vec![Logged::Accepted(Box::new(accepted.clone()))] }];
        self.has_room(start.flow, &log).await?;
        for _ in 0..TRIES {
            match self.logs.append(&log, 0, &record).await {
                Ok(_) => return self.push_or_take_back(log, start.flow.priority).await,
                // Somebody was faster, or it was this call: the log says who.
                Err(StoreError::Conflict { .. } | StoreError::Unknown) => {
                    if let Some(started) = self.joined(&log, &accepted.digest, start.flow.priority).await? {
                        return Ok(started);
                    }
                }
                Err(error) => return Err(store_fault(&error).into()),
            }
        }
        Err(store_fault(&StoreError::Unknown).into())
    }

    /// Whether one more run of `flow` may be begun; the run of `log`, if it is there, is not one more.
    ///
    /// # Errors
    /// `Overloaded` if as many have not ended as may. What other engines begin within a second may not be counted yet.
    async fn has_room(&self, flow: &Flow, log: &Name) -> Result<(), Fault> {
        let Some(most) = flow.max_live else { return Ok(()) };
        if self.state(log).await?.is_some() {
            return Ok(());
        }
        let known =
            locked(&self.live).get(&flow.name).filter(|(at, _)| at.elapsed() < COUNTED).map(|(_, count)| *count);
        let count = match known {
            Some(count) => count,
            None => {
                let one = self.list(ADMIN, usize::MAX, |standing| {
                    let accepted = standing.state.accepted.as_ref().filter(|_| standing.state.ended.is_none());
                    accepted.filter(|run| run.flow == flow.name).map(drop)
                });
                one.await?.len() as u32
            }
        };
        if count >= most {
            let words =
                format!("{count} runs of {} have not ended, and no more than {most} may: try again later", flow.name);
            return Err(Fault::new(FaultClass::Overloaded, words).again_after(COUNTED));
        }
        let at = if known.is_some() { None } else { Some(Instant::now()) };
        let mut live = locked(&self.live);
        let entry = live.entry(flow.name.clone()).or_insert((Instant::now(), count));
        *entry = (at.unwrap_or(entry.0), count + 1);
        Ok(())
    }

    async fn push_or_take_back(&self, log: Name, priority: u8) -> Result<Started, Declined> {
        match self.push(&log, priority).await {
            Ok(()) => Ok(Started { log, joined: false }),
            Err(error) => {
                // A run that waits for nothing is nobody's; where it cannot be taken back, whoever looks for such finds it.
                let _ = self.setup.store.remove(&log).await;
                Err(store_fault(&error).into())
            }
        }
    }

    /// The run that is there already; `None` if it is gone, or somebody was faster.
    async fn joined(&self, log: &Name, digest: &str, priority: u8) -> Result<Option<Started>, Declined> {
        let entries = self.logs.read(log, 0).await.map_err(|error| unread_fault(&error))?;
        let first = entries.first().and_then(|(_, record)| record.first()?.said.first());
        let Some(Logged::Accepted(there)) = first else { return Ok(None) };
        if there.digest != digest {
            return Err(Declined::OtherInput);
        }
        let is_begun = |said: &Logged| matches!(said, Logged::Owned { .. } | Logged::Ended(_));
        let begun = entries.iter().flat_map(|(_, record)| record).any(|moment| moment.said.iter().any(is_begun));
        if !begun {
            // Whoever began it may not have got to its job.
            let last = entries.last().map_or(0, |(position, _)| *position);
            let record = [Moment { at: self.clock.now(), said: vec![Logged::Requeued] }];
            match self.logs.append(log, last, &record).await {
                Ok(_) => self.push(log, priority).await.map_err(|error| store_fault(&error))?,
                Err(StoreError::Conflict { .. }) => return Ok(None),
                Err(error) => return Err(store_fault(&error).into()),
            }
        }
        Ok(Some(Started { log: log.clone(), joined: true }))
    }
}
