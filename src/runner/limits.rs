//! What targets bear: so many calls at once from all engines together, so many a second from this one, and fewer where they say so.
//!
//! A place at a target is a key with a lifetime in the store, so that all engines together never take more than there are. An engine
//! that is alone counts for itself. Engines know of each other by one key, in which each says when it was there last; one that comes
//! calls nobody that has a limit until the others must have seen it.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use stageline_base::hex;
use stageline_flow::definition::{Target, TargetLimits};
use stageline_flow::run::{CallOutcome, FailureClass};
use stageline_store::{Name, Store, StoreError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How often an engine says that it is there, and after how long it is not.
const BEAT: Duration = Duration::from_secs(1);
const GONE: Duration = Duration::from_secs(3);
/// How long a place is kept that nobody renews.
const HELD: Duration = Duration::from_secs(4);
/// Pause before a place is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Calls at once that a target without a limit is tried with at most, and the fewest that one is held down to.
const WIDEST: f64 = 4096.0;
const NARROWEST: f64 = 1.0;

/// See the module.
#[derive(Debug)]
pub(crate) struct Limits {
    store: Arc<dyn Store>,
    me: String,
    targets: Mutex<HashMap<String, Arc<Line>>>,
    /// Whether there are others, so that places are keys, and when that was seen.
    shared: watch::Sender<Option<(bool, Instant)>>,
}

/// Who waits at a target.
#[derive(Debug)]
struct Line {
    /// As many as may be called at once by this engine.
    room: Option<Arc<Semaphore>>,
    places: u32,
    /// What its places are called.
    hash: String,
    /// The places that are taken.
    taken: Mutex<Vec<Weak<Mutex<Option<HeldKey>>>>>,
    rate: Option<Mutex<Instant>>,
    every: Duration,
    width: Mutex<Width>,
    freed: watch::Sender<u64>,
}

/// How many calls at once a target bears, as far as it has said: one more after each that went well, half after each that it refused.
#[derive(Debug)]
struct Width {
    most: f64,
    out: u32,
    /// It has asked for so long a pause.
    until: Option<Instant>,
}

/// A call's place at its target; dropped, it is another's.
pub(crate) struct Place {
    line: Arc<Line>,
    _room: Option<OwnedSemaphorePermit>,
    _key: Shown,
}

/// The key of a place that others know of, once there are others.
type Shown = Arc<Mutex<Option<HeldKey>>>;

#[derive(Debug)]
struct HeldKey {
    renewing: AbortOnDropHandle<()>,
    store: Arc<dyn Store>,
    name: Name,
    revision: Arc<Mutex<u64>>,
}

impl Place {
    /// What its target has answered: what that bears is learnt of it.
    pub(crate) fn answered<T>(&self, answered: &Result<T, CallOutcome>) {
        let mut width = locked(&self.line.width);
        match answered {
            Ok(_) => width.most = (width.most + 1.0 / width.most.max(1.0)).min(WIDEST),
            Err(failed) if matches!(failed.class, FailureClass::Status(429 | 503) | FailureClass::Connect) => {
                let others = f64::from(width.out.saturating_sub(1).max(1));
                width.most = (width.most.min(others) / 2.0).max(NARROWEST);
                width.until = failed.retry_after.map(|pause| Instant::now() + pause);
            }
            Err(_) => {}
        }
        drop(width);
        self.line.freed.send_modify(|freed| *freed += 1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.line.width).out -= 1;
        self.line.freed.send_modify(|freed| *freed += 1);
    }
}

impl Drop for HeldKey {
    fn drop(&mut self) {
        self.renewing.abort();
        let (store, name, revision) = (self.store.clone(), self.name.clone(), *locked(&self.revision));
        // One that the store does not hear of is free when its lifetime is over.
        tokio::spawn(async move { store.unset(&name, revision).await });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(target: &Target) -> &str {
    match target {
        Target::Function { name, .. } | Target::Pipeline(name) => name,
        Target::Url(url) => url,
    }
}

impl Limits {
    pub(crate) fn new(store: Arc<dyn Store>, me: String) -> Self {
        Self { store, me, targets: Mutex::default(), shared: watch::Sender::new(None) }
    }

    fn line(&self, target: &Target, limits: &TargetLimits) -> Arc<Line> {
        let kind = match target {
            Target::Function { .. } => "function",
            Target::Pipeline(_) => "pipeline",
            Target::Url(_) => "url",
        };
        // Another limit is another line: what is under way by the old one is counted by it.
        let name = format!("{kind} {} {:?}", name_of(target), limits);
        let mut targets = locked(&self.targets);
        let line = targets.entry(name).or_insert_with(|| {
            let places = limits.concurrency.unwrap_or(0);
            Arc::new(Line {
                hash: hex(&Sha256::digest(format!("{kind} {}", name_of(target))))[..32].to_owned(),
                taken: Mutex::default(),
                room: limits.concurrency.map(|places| Arc::new(Semaphore::new(places as usize))),
                places,
                rate: limits.rate.map(|_| Mutex::new(Instant::now())),
                every: limits.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate.max(1e-6))),
                width: Mutex::new(Width { most: WIDEST, out: 0, until: None }),
                freed: watch::Sender::new(0),
            })
        });
        Arc::clone(line)
    }

    /// A place at a target, as soon as there is one.
    pub(crate) async fn place(&self, target: &Target, limits: &TargetLimits) -> Place {
        let line = self.line(target, limits);
        let room = match &line.room {
            // Never closed.
            Some(room) => Arc::clone(room).acquire_owned().await.ok(),
            None => None,
        };
        self.fits(&line).await;
        let key = Shown::default();
        let place = Place { line: Arc::clone(&line), _room: room, _key: Arc::clone(&key) };
        if let Some(next) = &line.rate {
            let at = {
                let mut next = locked(next);
                let at = (*next).max(Instant::now());
                *next = at + line.every;
                at
            };
            tokio::time::sleep_until(at.into()).await;
        }
        if line.places > 0 {
            self.show(&line, &key).await;
        }
        place
    }

    /// Waits until the target bears one more.
    async fn fits(&self, line: &Line) {
        let mut freed = line.freed.subscribe();
        loop {
            let pause = {
                let mut width = locked(&line.width);
                let now = Instant::now();
                match width.until.filter(|until| *until > now) {
                    Some(until) => until - now,
                    None if f64::from(width.out) < width.most.max(NARROWEST) => {
                        width.out += 1;
                        return;
                    }
                    None => BEAT,
                }
            };
            tokio::select! {
                _ = freed.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Has all engines know of a place, where there are others.
    async fn show(&self, line: &Line, key: &Shown) {
        let mut shared = self.shared.subscribe();
        loop {
            // Whoever stood still for a while knows nothing of who has come meanwhile.
            let fresh = |known: &Option<(bool, Instant)>| known.is_some_and(|(_, at)| at.elapsed() < GONE);
            let known = timeout(BEAT, shared.wait_for(fresh)).await;
            match known.ok().and_then(Result::ok).and_then(|known| known.map(|(shared, _)| shared)) {
                Some(true) => return self.take_key(line, key).await,
                // Under one lock with the look at who has come: none is taken unseen.
                Some(false) => {
                    let mut taken = locked(&line.taken);
                    if self.shared.borrow().is_some_and(|(shared, _)| !shared) {
                        taken.retain(|key| key.strong_count() > 0);
                        taken.push(Arc::downgrade(key));
                        return;
                    }
                }
                None => {}
            }
        }
    }

    async fn take_key(&self, line: &Line, key: &Shown) {
        let start =
            self.me.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % line.places;
        loop {
            for place in (0..line.places).map(|place| (place + start) % line.places) {
                let Some(name) = Name::new("place", &format!("{}-{place}", line.hash)) else { return };
                match self.store.set(&name, 0, self.me.clone().into(), Some(HELD)).await {
                    Ok(revision) => {
                        *locked(key) = Some(self.held(name, revision));
                        return;
                    }
                    Err(StoreError::Conflict { .. }) => {}
                    // Who cannot ask for a place takes none.
                    Err(_) => break,
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Others have come: the places that are taken here are to be known to them.
    async fn show_all(&self) {
        let lines: Vec<Arc<Line>> = locked(&self.targets).values().filter(|line| line.places > 0).cloned().collect();
        for line in lines {
            let taken = std::mem::take(&mut *locked(&line.taken));
            for key in taken.iter().filter_map(Weak::upgrade) {
                // One that is given back meanwhile needs none; so many others cannot hold all of them yet.
                let _ = timeout(BEAT, self.take_key(&line, &key)).await;
            }
        }
    }

    fn held(&self, name: Name, revision: u64) -> HeldKey {
        let revision = Arc::new(Mutex::new(revision));
        let (store, renewed, place, me) = (self.store.clone(), Arc::clone(&revision), name.clone(), self.me.clone());
        let renewing = tokio::spawn(async move {
            loop {
                sleep(BEAT).await;
                let known = *locked(&renewed);
                if let Ok(revision) = store.set(&place, known, me.clone().into(), Some(HELD)).await {
                    *locked(&renewed) = revision;
                }
            }
        });
        HeldKey { renewing: AbortOnDropHandle::new(renewing), store: self.store.clone(), name, revision }
    }

    /// Says that this engine is there, and looks who else is, for ever.
    pub(crate) async fn keep(&self) {
        let Some(name) = Name::new("engines", "all") else { return };
        let mut beats = 0;
        loop {
            if let Ok(others) = self.meet(&name).await {
                beats += 1;
                let (is_shared, was_shared) = (others > 0, self.shared.borrow().map(|(shared, _)| shared));
                if is_shared && was_shared == Some(false) {
                    self.shared.send_replace(None);
                    self.show_all().await;
                }
                // One that has just come is seen by the others within two beats: until then places may be theirs unseen.
                if beats > 2 || !is_shared {
                    self.shared.send_replace(Some((is_shared, Instant::now())));
                }
            }
            sleep(BEAT).await;
        }
    }

    /// How many others are there.
    async fn meet(&self, name: &Name) -> Result<usize, StoreError> {
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let entry = self.store.get(name).await?;
            let said: Map<String, Value> =
                entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default();
            let is_there = |at: &Value| at.as_u64().is_some_and(|at| at + GONE.as_millis() as u64 > now);
            let mut there: Map<String, Value> = said.into_iter().filter(|(_, at)| is_there(at)).collect();
            there.insert(self.me.clone(), now.into());
            let (others, text) = (there.len() - 1, Value::Object(there).to_string());
            match self.store.set(name, entry.map_or(0, |entry| entry.revision), text.into(), None).await {
                Ok(_) => return Ok(others),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
