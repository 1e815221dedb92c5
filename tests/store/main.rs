//! One contract for every store: in memory, in a file, and at a real broker; and the owners of durable requests, simulated.
//!
//! Needs a nats-server: `scripts/test` installs it.

#[path = "../support/nats.rs"]
mod nats;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/seeds.rs"]
mod seeds;

mod broker;
mod durable;
mod file;
mod suite;

use nats::NatsServer;
use patience::soon;
use stageline_store::{FileSettings, FileStore, JetStream, MemoryStore, Name, Settings, Store};
use std::sync::Arc;
use std::time::Duration;

/// The shortest lease that all stores can keep: a broker counts whole seconds.
const LEASE: Duration = Duration::from_secs(1);
/// Jobs that the stores under test have room for.
const MAX_JOBS: u64 = 6;

fn name(kind: &str, token: &str) -> Name {
    Name::new(kind, token).unwrap()
}

fn file_settings() -> FileSettings {
    FileSettings { lease: LEASE, max_jobs: MAX_JOBS, ..FileSettings::default() }
}

fn broker_settings() -> Settings {
    Settings {
        name: "store-test".to_owned(),
        subject: "stageline.v1.test.store".to_owned(),
        lease: LEASE,
        max_jobs: MAX_JOBS,
        max_bytes: 64 << 20,
        blob_age: Duration::from_secs(3600),
        replicas: 1,
    }
}

async fn broker(server: &NatsServer) -> JetStream {
    let client = async_nats::connect(server.url()).await.unwrap();
    JetStream::open(client, broker_settings()).await.unwrap()
}

/// Looks until it is so. What a store lets go of by itself, and what a broker has only been told, cannot be awaited otherwise.
async fn until(what: &str, mut it_is: impl AsyncFnMut() -> bool) {
    let looking = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while !it_is().await {
            look.tick().await;
        }
    };
    soon(what, looking).await;
}

/// A store, by two of those who use it; and what must live as long.
struct Two {
    one: Arc<dyn Store>,
    other: Arc<dyn Store>,
    _alive: Box<dyn std::any::Any>,
}

impl Two {
    fn memory() -> Self {
        let store = MemoryStore::new(LEASE, MAX_JOBS as usize);
        Self { one: Arc::new(store.clone()), other: Arc::new(store), _alive: Box::new(()) }
    }

    fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::open(&folder.path().join("store"), file_settings()).unwrap();
        Self { one: Arc::new(store.clone()), other: Arc::new(store), _alive: Box::new(folder) }
    }

    async fn broker() -> Self {
        let server = NatsServer::start().await;
        let (one, other) = (broker(&server).await, broker(&server).await);
        Self { one: Arc::new(one), other: Arc::new(other), _alive: Box::new(server) }
    }
}

/// A test of the contract, for each store.
macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $test() {
                super::suite::$test(super::Two::memory()).await;
            })*
        }
        mod in_a_file {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::suite::$test(super::Two::file()).await;
            })*
        }
        mod at_a_broker {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::suite::$test(super::Two::broker().await).await;
            })*
        }
    };
}

contract!(
    a_record_stands_behind_the_one_its_writer_knew,
    of_many_writers_each_is_right_once,
    a_log_is_read_and_followed_from_anywhere,
    a_finished_log_is_one_record_and_then_none,
    logs_are_listed_by_kind_with_their_ends,
    an_ended_log_may_go_on_anew,
    a_removed_log_begins_anew_and_is_not_the_old_one,
    a_job_is_its_takers_until_the_lease_runs_out,
    a_job_that_is_held_stays_held,
    a_job_comes_again_when_it_is_given_back,
    jobs_come_to_those_who_wait,
    a_full_queue_takes_no_more,
    a_key_is_replaced_by_who_knows_its_revision,
    a_key_is_gone_after_its_lifetime,
    a_blob_is_kept_whole,
    what_is_too_large_is_refused,
);
