//! Takes runs in, and hands their jobs to owners.

use super::calling::Caller;
use super::limits::Limits;
use super::logs::{Logs, Unread};
use super::outgoing::Outgoing;
use super::wall::Clock;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use stageline_base::prng::Prng;
use stageline_base::{Fault, FaultClass, ReplicaId, hex};
use stageline_flow::definition::File;
use stageline_flow::file;
use stageline_flow::run::{Blob, Datum, Logged, State};
use stageline_store::{Name, Store, StoreError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex as Turn, Notify, Semaphore};

/// How often somebody else may be faster, until it is said that the store does not get on.
pub(crate) const TRIES: u32 = 20;
/// Who sees everybody's runs.
pub(crate) const ADMIN: &str = "admin";
/// After how long a caller may try again that was refused for want of room.
const FULL_FOR: Duration = Duration::from_secs(5);
/// A value that is larger is kept beside the log.
pub(crate) const INLINE_BYTES: usize = 64 << 10;
/// Definitions that are kept in memory.
const FILES: usize = 64;
/// How long a connection may take to whom a call is passed on.
const CONNECT: Duration = Duration::from_secs(5);
/// Most callbacks that are under way at once.
const TELLING: usize = 64;

/// How runs are kept.
#[derive(Clone)]
pub struct KeeperSetup {
    /// Where.
    pub store: Arc<dyn Store>,
    /// This engine, as owner.
    pub me: ReplicaId,
    /// Most runs of either priority that this engine owns at once.
    pub at_once: usize,
    /// Who makes calls.
    pub caller: Arc<dyn Caller>,
    /// Whom callbacks may go to.
    pub outgoing: Outgoing,
    /// Largest value of a run, in bytes.
    pub max_value_bytes: u64,
}

/// See the module.
pub struct Keeper {
    pub(crate) setup: KeeperSetup,
    pub(crate) logs: Logs,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) telling: Arc<Semaphore>,
    /// Held by whoever looks through all runs.
    pub(crate) listing: Turn<()>,
    files: Mutex<HashMap<String, Arc<File>>>,
    /// Owners here that hear at once of what is written by others here.
    nudges: Mutex<HashMap<Name, Arc<Notify>>>,
    seeds: Mutex<Prng>,
    /// Runs that have not ended, of flows that may not have more than so many, and when they were counted.
    pub(crate) live: Mutex<HashMap<String, (Instant, u32)>>,
    client: reqwest::Client,
}

/// What a caller is told where the store does not do what it is asked.
pub(crate) fn store_fault(error: &StoreError) -> Fault {
    let words = format!("runs cannot be kept now: {error}");
    match error {
        StoreError::TooLarge { .. } => Fault::new(FaultClass::TooLarge, words),
        StoreError::Full { .. } => Fault::new(FaultClass::Unavailable, words).again_after(FULL_FOR),
        StoreError::Crowded { .. } => {
            Fault::new(FaultClass::Overloaded, "as many runs as may wait do: try again later").again_after(FULL_FOR)
        }
        _ => Fault::new(FaultClass::Unavailable, words),
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn no_name() -> Fault {
    Fault::internal("a name is no name")
}

impl Keeper {
    /// One that owns nothing yet.
    ///
    /// # Errors
    /// `Internal` if the library for HTTP cannot be set up.
    pub fn new(setup: KeeperSetup) -> Result<Arc<Self>, Fault> {
        let (logs, seeds) = (Logs::new(setup.store.clone()), Mutex::new(Prng::new(setup.me.boot())));
        let limits = Limits::new(setup.store.clone(), setup.me.to_string());
        let client = setup.outgoing.client(CONNECT);
        let client = client.map_err(|error| Fault::internal(format!("HTTP cannot be set up: {error}")))?;
        Ok(Arc::new(Self {
            client,
            setup,
            logs,
            clock: Clock::new(),
            limits,
            telling: Arc::new(Semaphore::new(TELLING)),
            listing: Turn::default(),
            files: Mutex::default(),
            nudges: Mutex::default(),
            seeds,
            live: Mutex::default(),
        }))
    }

    /// Whom callbacks may go to.
    pub fn outgoing(&self) -> &Outgoing {
        &self.setup.outgoing
    }

    /// What calls that are passed on are made with.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// A random number.
    pub(crate) fn draw(&self) -> u64 {
        locked(&self.seeds).next_u64()
    }

    pub(crate) fn queue(priority: u8) -> Option<Name> {
        Name::new("runs", if priority == 0 { "usual" } else { "first" })
    }

    /// Keeps the text of a flow file, which can be read: its digest, by which its runs know it.
    ///
    /// # Errors
    /// `Unavailable` if the store does not keep it.
    pub async fn define(&self, text: &str, file: &Arc<File>) -> Result<String, Fault> {
        let digest = hex(&Sha256::digest(text));
        let name = Name::new("flow-file", &digest).ok_or_else(no_name)?;
        // Put again each time: blobs are let go of by their age.
        let put = self.setup.store.put_blob(&name, Bytes::copy_from_slice(text.as_bytes())).await;
        put.map_err(|error| store_fault(&error))?;
        self.remember(&digest, file);
        Ok(digest)
    }

    fn remember(&self, digest: &str, file: &Arc<File>) {
        let mut files = locked(&self.files);
        if files.len() >= FILES
            && let Some(any) = files.keys().next().cloned()
        {
            files.remove(&any);
        }
        files.insert(digest.to_owned(), Arc::clone(file));
    }

    /// What the file of that digest says; `None` if it is gone, or no flow file.
    ///
    /// # Errors
    /// The store does not say.
    pub(crate) async fn defined(&self, digest: &str) -> Result<Option<Arc<File>>, StoreError> {
        if let Some(file) = locked(&self.files).get(digest) {
            return Ok(Some(Arc::clone(file)));
        }
        let Some(name) = Name::new("flow-file", digest) else { return Ok(None) };
        let Some(text) = self.setup.store.blob(&name).await? else { return Ok(None) };
        let Some(file) = std::str::from_utf8(&text).ok().and_then(|text| file::read(text).file) else {
            return Ok(None);
        };
        let file = Arc::new(file);
        self.remember(digest, &file);
        Ok(Some(file))
    }

    pub(crate) async fn push(&self, log: &Name, priority: u8) -> Result<(), StoreError> {
        let queue = Self::queue(priority).ok_or(StoreError::Unavailable { cause: "a name is no name".to_owned() })?;
        self.setup.store.push(&queue, Bytes::copy_from_slice(log.as_str().as_bytes())).await
    }

    /// A body as a value of the run `run`: beside the log where it is large.
    ///
    /// # Errors
    /// `TooLarge`, or `Unavailable` if the store does not keep it.
    pub(crate) async fn kept(&self, run: &str, kind: &str, body: Bytes) -> Result<Datum, Fault> {
        let most = self.setup.max_value_bytes;
        if body.len() as u64 > most {
            let words = format!("a value of {} bytes is more than the {most} that a flow takes", body.len());
            return Err(Fault::new(FaultClass::TooLarge, words));
        }
        if body.len() <= INLINE_BYTES {
            return Ok(Datum::of_body(kind, &body));
        }
        let sha256 = hex(&Sha256::digest(&body));
        let name = Name::new("run-value", &format!("{run}-{:016x}", self.draw())).ok_or_else(no_name)?;
        let blob =
            Blob { name: name.as_str().to_owned(), bytes: body.len() as u64, content_type: kind.to_owned(), sha256 };
        self.setup.store.put_blob(&name, body).await.map_err(|error| store_fault(&error))?;
        Ok(Datum::Blob(Arc::new(blob)))
    }

    /// The bytes of a blob, as they were put; `None` if it is gone.
    ///
    /// # Errors
    /// The store does not say.
    pub(crate) async fn blob(&self, blob: &Blob) -> Result<Option<Bytes>, StoreError> {
        let Some(name) = Name::parse(&blob.name) else { return Ok(None) };
        let bytes = self.setup.store.blob(&name).await?;
        Ok(bytes.filter(|bytes| hex(&Sha256::digest(bytes)) == blob.sha256))
    }

    /// Somebody here has written into a log: who owns it here looks at once.
    pub(crate) fn nudge(&self, log: &Name) {
        if let Some(owner) = locked(&self.nudges).get(log) {
            owner.notify_one();
        }
    }

    pub(crate) fn hears(&self, log: &Name) -> Arc<Notify> {
        Arc::clone(locked(&self.nudges).entry(log.clone()).or_default())
    }

    pub(crate) fn hears_no_more(&self, log: &Name) {
        locked(&self.nudges).remove(log);
    }

    /// How a run stands, of what its log says.
    pub(crate) async fn state(&self, log: &Name) -> Result<Option<(State, Arc<File>)>, Fault> {
        let entries = self.logs.read(log, 0).await.map_err(|error| unread_fault(&error))?;
        let first = entries.first().and_then(|(_, record)| record.first()?.said.first());
        let Some(Logged::Accepted(accepted)) = first else { return Ok(None) };
        let file = self.defined(&accepted.definition).await.map_err(|error| store_fault(&error))?.unwrap_or_default();
        let mut state = State::default();
        for (position, record) in &entries {
            state.take(&file, *position, record);
        }
        Ok(Some((state, file)))
    }
}

/// What a caller is told of a run whose log could not be read.
pub(crate) fn unread_fault(unread: &Unread) -> Fault {
    match unread {
        Unread::Store(error) => store_fault(error),
        error => Fault::internal(format!("the run's log cannot be read: {error}")),
    }
}
