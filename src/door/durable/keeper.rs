//! Takes durable requests in, hands their jobs to owners, and knows how each stands.

use super::accepting::FULL_FOR;
use super::logs::{Logs, unread_fault};
use super::owning::Owning;
use super::standing::Standing;
use super::stored::{Forms, Stored};
use crate::Intake;
use crate::keys::ADMIN;
use crate::outgoing::Outgoing;
use bytes::Bytes;
use stageline_base::prng::Prng;
use stageline_base::{Fault, FaultClass, ReplicaId};
use stageline_core::durable::{Life, Logged};
use stageline_metrics::{Kept as Event, Metrics};
use stageline_runner::{Clock, hand_out};
use stageline_store::{Name, Store, StoreError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, RwLock, Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Pause before a store that gave no job is asked again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// Most callbacks that are under way at once.
const TELLING: usize = 64;
/// Cancellations that wait for an owner to hear of them; one that has missed some looks at its log.
const CANCELS: usize = 64;
/// How often a request's owner may be faster than who cancels it.
const CANCEL_TRIES: u32 = 200;
/// How often somebody else may be faster, until it is said that the store does not get on.
pub(super) const TRIES: u32 = 20;
/// How much longer than an answer it is remembered that there was one, and at least.
const REMEMBERED: u32 = 8;
const REMEMBERED_AT_LEAST: Duration = Duration::from_secs(24 * 3600);
/// How long a request is kept, at least, that nobody could be told of, or that its owners died with.
pub(super) const DEAD_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How durable requests are kept.
#[derive(Clone)]
pub struct KeeperSetup {
    /// Where.
    pub store: Arc<dyn Store>,
    /// This door, as owner.
    pub me: ReplicaId,
    /// The digest of the manifest that is served, in hexadecimal: requests are answered by the model that they were accepted for.
    pub manifest: String,
    /// Most requests that this door owns at once.
    pub at_once: usize,
    /// How long a request may take that names no deadline, from its acceptance on, and the longest that one may name.
    pub timeout: Duration,
    /// How long an answer is kept.
    pub keep: Duration,
    /// What the pipeline is called.
    pub name: String,
    /// Whom callbacks may go to.
    pub outgoing: Outgoing,
    /// Who is told of a request's end whose client names nobody.
    pub callback_url: Option<String>,
    /// Whether every call that brings an id joins the call that had it before, not only those of OpenFaaS' queue worker.
    pub join_always: bool,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// How bodies are read, and answers written.
    pub forms: &'static dyn Forms,
}

/// See the module.
pub struct Keeper {
    pub(super) setup: KeeperSetup,
    pub(super) logs: Logs,
    pub(super) clock: Clock,
    /// Held for reading by each run, and for writing by one that is to run alone.
    pub(super) turns: Arc<RwLock<()>>,
    /// One permit a callback that is under way.
    pub(super) telling: Arc<Semaphore>,
    /// Held by whoever looks through all requests.
    pub(super) listing: Turn<()>,
    /// Whoever reads an answer here is to read on elsewhere.
    pub(super) leaving: CancellationToken,
    /// Logs of requests that were cancelled here: their owners, if they are here too, need not find it out by and by.
    pub(super) cancels: broadcast::Sender<Name>,
    pub(super) queue: Name,
    seeds: Mutex<Prng>,
}

/// What a client is told where the store does not do what it is asked.
pub(super) fn store_fault(error: &StoreError) -> Fault {
    let words = format!("durable requests cannot be kept now: {error}");
    match error {
        StoreError::TooLarge { .. } => Fault::new(FaultClass::TooLarge, words),
        StoreError::Full { .. } => Fault::new(FaultClass::Unavailable, words).again_after(FULL_FOR),
        _ => Fault::new(FaultClass::Unavailable, words),
    }
}

impl Keeper {
    /// The longest that a request is kept after its end, unless answers are kept for longer.
    pub const LONGEST_KEPT: Duration = DEAD_KEPT;

    /// One that owns nothing yet.
    ///
    /// # Errors
    /// `Internal` if the manifest's digest is none.
    pub fn new(setup: KeeperSetup) -> Result<Arc<Self>, Fault> {
        let queue = queue_of(&setup.manifest).ok_or_else(|| Fault::internal("a manifest's digest is not one"))?;
        let (logs, seeds) = (Logs::new(setup.store.clone()), Mutex::new(Prng::new(setup.me.boot())));
        Ok(Arc::new(Self {
            setup,
            logs,
            clock: Clock::new(),
            turns: Arc::default(),
            telling: Arc::new(Semaphore::new(TELLING)),
            listing: Turn::default(),
            leaving: CancellationToken::new(),
            cancels: broadcast::Sender::new(CANCELS),
            queue,
            seeds,
        }))
    }

    /// The door is about to end: whoever reads an answer here is told where to read on.
    pub fn leave(&self) {
        self.leaving.cancel();
    }

    /// How it was made.
    pub(crate) fn setup(&self) -> &KeeperSetup {
        &self.setup
    }

    /// Counts what happened to a request.
    pub(super) fn count(&self, event: Event) {
        self.setup.metrics.door.durable_requests[event as usize].inc();
    }

    /// A random number.
    pub(super) fn draw(&self) -> u64 {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// How the request of that log stands; `None` if there is none, or none any more.
    ///
    /// # Errors
    /// `Unavailable` if the store does not say, `Internal` for what cannot be read.
    pub(super) async fn standing(&self, log: &Name) -> Result<Option<Standing>, Fault> {
        let entries = self.logs.read(log, 0).await.map_err(|error| unread_fault(&error))?;
        let life = Life::of(entries.iter().map(|(position, record)| (*position, &record[..])));
        Standing::of(log.clone(), life)
    }

    /// The request of that id, if it is `principal`'s.
    ///
    /// # Errors
    /// As [`Keeper::standing`].
    pub(crate) async fn look(&self, principal: &str, id: &str) -> Result<Option<Standing>, Fault> {
        let Some(log) = Name::new("request", id) else { return Ok(None) };
        Ok(self.standing(&log).await?.filter(|standing| may_see(principal, standing.stored.principal())))
    }

    /// Whether the request of that id was `principal`'s, has ended, and is not kept any more.
    ///
    /// # Errors
    /// `Unavailable` if the store does not say.
    pub(crate) async fn is_gone(&self, principal: &str, id: &str) -> Result<bool, Fault> {
        let Some(key) = Name::new("ended", id) else { return Ok(false) };
        let entry = self.setup.store.get(&key).await.map_err(|error| store_fault(&error))?;
        Ok(entry.is_some_and(|entry| may_see(principal, &String::from_utf8_lossy(&entry.value))))
    }

    /// Writes the last record of a log, which is kept for as long as answers are, or dead letters.
    pub(super) async fn finished(&self, log: &Name, after: u64, record: &[Logged]) -> Result<u64, StoreError> {
        let given_up = |logged: &Logged| match logged {
            Logged::Delivered { given_up } => given_up.is_some(),
            Logged::Ended { outcome, deaths, .. } => outcome.is_err() && *deaths > 0,
            _ => false,
        };
        let is_dead = record.iter().any(given_up);
        let keep = if is_dead { self.setup.keep.max(DEAD_KEPT) } else { self.setup.keep };
        let written = self.logs.finish(log, after, record, keep).await;
        if let (Ok(_), Some(Logged::Accepted(accepted))) = (&written, record.first())
            && let Ok(stored) = Stored::decode(&accepted.request)
        {
            if is_dead {
                self.count(Event::Dead);
            }
            self.remember(log, stored.principal()).await;
        }
        written
    }

    /// The request of `log` has ended: who asks for it when its answer is gone is told so.
    async fn remember(&self, log: &Name, principal: &str) {
        let Some(key) = Name::new("ended", log.token()) else { return };
        let lifetime = self.setup.keep.saturating_mul(REMEMBERED).max(REMEMBERED_AT_LEAST);
        let value = Bytes::copy_from_slice(principal.as_bytes());
        // One that is remembered already stays so; one that cannot be is unknown then.
        let _ = self.setup.store.set(&key, 0, value, Some(lifetime)).await;
    }

    /// Has the request of that id end, if it has not; whether there is one.
    ///
    /// # Errors
    /// As [`Keeper::standing`].
    pub(crate) async fn cancel(&self, principal: &str, id: &str) -> Result<bool, Fault> {
        let Some(Standing { log, mut life, .. }) = self.look(principal, id).await? else { return Ok(false) };
        for _ in 0..CANCEL_TRIES {
            if life.cancelled || life.ended.is_some() {
                return Ok(true);
            }
            match self.logs.append(&log, life.last, &[Logged::Cancelled]).await {
                Ok(_) => {
                    // Where nobody owns anything, nobody listens.
                    let _ = self.cancels.send(log);
                    return Ok(true);
                }
                // Its owner was faster: only what that wrote is read, so that this call is the faster one soon.
                Err(StoreError::Conflict { last: 0 }) => return Ok(true),
                Err(StoreError::Conflict { .. } | StoreError::Unknown) => {
                    let entries = self.logs.read(&log, life.last).await.map_err(|error| unread_fault(&error))?;
                    entries.iter().for_each(|(position, record)| life.take(*position, record));
                }
                Err(error) => return Err(store_fault(&error)),
            }
        }
        Err(store_fault(&StoreError::Unknown))
    }

    /// Owns requests as their jobs come, until `closing`; then has those that it owns end, and at `release` lets go of them. `intake`
    /// runs them.
    pub async fn work(
        self: Arc<Self>,
        intake: Arc<dyn Intake>,
        closing: CancellationToken,
        release: CancellationToken,
    ) {
        let mut beside = JoinSet::new();
        beside.spawn(Arc::clone(&self).take_in(Arc::clone(&intake), closing.clone()));
        beside.spawn(Arc::clone(&self).sweep(closing.clone()));
        let from = (Arc::clone(&self.setup.store), self.queue.clone());
        let own = |job, place| {
            let (keeper, intake) = (Arc::clone(&self), Arc::clone(&intake));
            Owning { keeper, intake, job, closing: closing.clone(), release: release.clone(), place }.own_to_its_end()
        };
        hand_out(from, self.setup.at_once, beside, closing.clone(), own).await;
    }
}

/// Where jobs wait for doors of the manifest with this digest.
pub(super) fn queue_of(manifest: &str) -> Option<Name> {
    manifest.get(..16).and_then(|digest| Name::new("jobs", digest))
}

/// Whether `principal` may know of a request of `owner`'s.
pub(super) fn may_see(principal: &str, owner: &str) -> bool {
    principal == owner || principal == ADMIN
}
