//! What every store must do.

use super::{MAX_JOBS, Two, name, until};
use bytes::Bytes;
use futures::StreamExt;
use stageline_store::{Record, StoreError};
use std::collections::BTreeSet;
use std::time::Duration;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.bytes.to_vec()).unwrap()).collect()
}

const HOUR: Duration = Duration::from_secs(3600);

pub async fn a_record_stands_behind_the_one_its_writer_knew(Two { one, other, _alive }: Two) {
    let log = name("request", "a");
    assert_eq!(one.read(&log, 0).await.unwrap(), []);
    let first = one.append(&log, 0, bytes("first")).await.unwrap();
    let second = other.append(&log, first, bytes("second")).await.unwrap();
    assert!(0 < first && first < second);
    // A ghost, and one that has never looked.
    for after in [first, 0, second + 1] {
        let refused = one.append(&log, after, bytes("wrong")).await.unwrap_err();
        assert_eq!(refused, StoreError::Conflict { last: second });
        let refused = one.finish(&log, after, bytes("wrong"), HOUR).await.unwrap_err();
        assert_eq!(refused, StoreError::Conflict { last: second });
    }
    let records = other.read(&log, 0).await.unwrap();
    assert_eq!(records.iter().map(|record| record.position).collect::<Vec<_>>(), [first, second]);
    assert_eq!(texts(&records), ["first", "second"]);
    assert_eq!(texts(&other.read(&log, first).await.unwrap()), ["second"]);
    assert_eq!(other.read(&log, second).await.unwrap(), []);
    // Another log is another matter.
    one.append(&name("request", "b"), 0, bytes("")).await.unwrap();
    one.append(&log, second, Bytes::new()).await.unwrap();
}

pub async fn of_many_writers_each_is_right_once(Two { one, other, _alive }: Two) {
    let log = name("request", "raced");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let (store, log) = (if writer % 2 == 0 { one.clone() } else { other.clone() }, log.clone());
        writers.spawn(async move {
            let mut last = 0;
            for round in 0..10 {
                loop {
                    match store.append(&log, last, bytes(&format!("{writer}.{round}"))).await {
                        Ok(position) => break last = position,
                        Err(StoreError::Conflict { last: now }) => last = now,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let records = one.read(&log, 0).await.unwrap();
    assert_eq!(texts(&records).into_iter().collect::<BTreeSet<_>>().len(), 80);
    assert!(records.is_sorted_by(|one, other| one.position < other.position));
    assert_eq!(records.len(), 80);
}

pub async fn a_log_is_read_and_followed_from_anywhere(Two { one, other, _alive }: Two) {
    let log = name("request", "followed");
    let mut before_it_was = other.follow(&log, 0);
    let mut last = 0;
    let mut positions = Vec::new();
    for n in 0..1200 {
        last = one.append(&log, last, bytes(&n.to_string())).await.unwrap();
        positions.push(last);
    }
    // More than a page of any store.
    let all: Vec<String> = (0..1200).map(|n| n.to_string()).collect();
    assert_eq!(texts(&other.read(&log, 0).await.unwrap()), all);
    assert_eq!(texts(&other.read(&log, positions[699]).await.unwrap()), all[700..]);
    let mut in_the_midst = other.follow(&log, positions[1196]);
    for n in ["1197", "1198", "1199"] {
        assert_eq!(in_the_midst.next().await.unwrap().unwrap().bytes, n);
    }
    for n in &all {
        assert_eq!(before_it_was.next().await.unwrap().unwrap().bytes, n);
    }
    // What comes, comes to all who follow, wherever they are.
    let mut here = one.follow(&log, last);
    last = one.append(&log, last, bytes("next")).await.unwrap();
    for follower in [&mut before_it_was, &mut in_the_midst, &mut here] {
        let Record { position, bytes } = follower.next().await.unwrap().unwrap();
        assert_eq!((position, &bytes[..]), (last, &b"next"[..]));
    }
    let end = one.finish(&log, last, bytes("end"), HOUR).await.unwrap();
    for follower in [&mut before_it_was, &mut in_the_midst, &mut here] {
        let Record { position, bytes } = follower.next().await.unwrap().unwrap();
        assert_eq!((position, &bytes[..]), (end, &b"end"[..]));
    }
}

pub async fn a_finished_log_is_one_record_and_then_none(Two { one, other, _alive }: Two) {
    let log = name("request", "finished");
    let first = one.append(&log, 0, bytes("first")).await.unwrap();
    let end = one.finish(&log, first, bytes("end"), Duration::from_secs(1)).await.unwrap();
    assert_eq!(other.read(&log, 0).await.unwrap(), [Record { position: end, bytes: bytes("end") }]);
    // A log may be a last record from the beginning, and is kept on its own account.
    other.finish(&name("request", "other"), 0, bytes("other"), HOUR).await.unwrap();
    until("it is gone", async || one.read(&log, 0).await.unwrap().is_empty()).await;
    assert_eq!(other.logs("request", None, 9).await.unwrap().len(), 1);
    let ghost = one.append(&log, end, bytes("ghost")).await.unwrap_err();
    assert_eq!(ghost, StoreError::Conflict { last: 0 });
    assert!(one.append(&log, 0, bytes("anew")).await.unwrap() > end);
}

pub async fn logs_are_listed_by_kind_with_their_ends(Two { one, other, _alive }: Two) {
    assert_eq!(one.logs("request", None, 9).await.unwrap(), []);
    let mut expected = Vec::new();
    // More than a page of any store.
    for n in 0..600 {
        let log = name("request", &format!("{n:04}"));
        let mut last = 0;
        for record in 0..=n % 2 {
            last = one.append(&log, last, bytes(&format!("{n}.{record}"))).await.unwrap();
        }
        expected.push((log, Record { position: last, bytes: bytes(&format!("{n}.{}", n % 2)) }));
    }
    one.append(&name("requests", "x"), 0, bytes("another kind")).await.unwrap();
    one.append(&name("reques", "x"), 0, bytes("another kind")).await.unwrap();
    assert_eq!(other.logs("request", None, 1000).await.unwrap(), expected);
    assert_eq!(one.logs("request", None, 3).await.unwrap(), expected[..3]);
    assert_eq!(one.logs("request", Some(&expected[2].0), 590).await.unwrap(), expected[3..593]);
    assert_eq!(one.logs("request", Some(&expected[599].0), 9).await.unwrap(), []);
    assert_eq!(other.logs("requests", None, 9).await.unwrap().len(), 1);
}

pub async fn an_ended_log_may_go_on_anew(Two { one, other, _alive }: Two) {
    let log = name("request", "renewed");
    let first = one.append(&log, 0, bytes("first")).await.unwrap();
    let end = one.finish(&log, first, bytes("end"), HOUR).await.unwrap();
    assert_eq!(other.renew(&log, first, bytes("late")).await, Err(StoreError::Conflict { last: end }));
    let anew = other.renew(&log, end, bytes("anew")).await.unwrap();
    assert_eq!(one.read(&log, 0).await.unwrap(), [Record { position: anew, bytes: bytes("anew") }]);
    let next = one.append(&log, anew, bytes("next")).await.unwrap();
    assert_eq!(other.read(&log, anew).await.unwrap(), [Record { position: next, bytes: bytes("next") }]);
    // Nothing of it is gone when the end would have been.
    let brief = name("request", "brief");
    let end = one.finish(&brief, 0, bytes("end"), Duration::from_secs(2)).await.unwrap();
    let other_log = name("request", "other");
    one.finish(&other_log, 0, bytes("end"), Duration::from_secs(2)).await.unwrap();
    one.renew(&brief, end, bytes("anew")).await.unwrap();
    until("the other is gone", async || one.read(&other_log, 0).await.unwrap().is_empty()).await;
    assert_eq!(one.read(&brief, 0).await.unwrap().len(), 1);
}

pub async fn a_removed_log_begins_anew_and_is_not_the_old_one(Two { one, other, _alive }: Two) {
    let log = name("request", "removed");
    let first = one.append(&log, 0, bytes("first")).await.unwrap();
    other.remove(&log).await.unwrap();
    other.remove(&log).await.unwrap();
    assert_eq!(one.read(&log, 0).await.unwrap(), []);
    assert_eq!(one.append(&log, first, bytes("ghost")).await.unwrap_err(), StoreError::Conflict { last: 0 });
    let again = one.append(&log, 0, bytes("again")).await.unwrap();
    assert!(again > first);
    assert_eq!(one.append(&log, first, bytes("ghost")).await.unwrap_err(), StoreError::Conflict { last: again });
}

pub async fn a_job_is_its_takers_until_the_lease_runs_out(Two { one, other, _alive }: Two) {
    let queue = name("jobs", "all");
    assert_eq!(one.jobs(&queue).await.unwrap(), 0);
    for job in ["first", "second"] {
        one.push(&queue, bytes(job)).await.unwrap();
    }
    assert_eq!(other.jobs(&queue).await.unwrap(), 2);
    let first = other.take(&queue).await.unwrap();
    assert_eq!((&first.bytes[..], first.deliveries), (&b"first"[..], 1));
    let second = one.take(&queue).await.unwrap();
    assert_eq!((&second.bytes[..], second.deliveries), (&b"second"[..], 1));
    one.done(&second.id).await.unwrap();
    until("one is done", async || one.jobs(&queue).await.unwrap() == 1).await;
    // Its taker is dead, as it seems: nobody says a word until its lease has run out.
    let again = one.take(&queue).await.unwrap();
    assert_eq!((&again.bytes[..], again.deliveries), (&b"first"[..], 2));
    assert!(again.number == first.number && again.number != second.number && again.id != first.id);
    one.done(&again.id).await.unwrap();
    // What a ghost says of a job that is not there hurts nobody.
    other.done(&first.id).await.unwrap();
    other.again(&first.id, Duration::ZERO).await.unwrap();
    other.hold(&first.id).await.unwrap();
    until("all are done", async || one.jobs(&queue).await.unwrap() == 0).await;
}

pub async fn a_job_that_is_held_stays_held(Two { one, other, _alive }: Two) {
    let queue = name("jobs", "held");
    for job in ["held", "given up"] {
        one.push(&queue, bytes(job)).await.unwrap();
    }
    let held = one.take(&queue).await.unwrap();
    let mut given_up = one.take(&queue).await.unwrap();
    // Five leases of the one that nobody holds are longer than one lease of the other.
    let mut hold = tokio::time::interval(one.lease() / 4);
    for deliveries in 2..=5 {
        let mut next = std::pin::pin!(other.take(&queue));
        given_up = loop {
            tokio::select! {
                taken = &mut next => break taken.unwrap(),
                _ = hold.tick() => one.hold(&held.id).await.unwrap(),
            }
        };
        assert_eq!((&given_up.bytes[..], given_up.deliveries), (&b"given up"[..], deliveries));
    }
    other.done(&given_up.id).await.unwrap();
    one.done(&held.id).await.unwrap();
    until("both are done", async || one.jobs(&queue).await.unwrap() == 0).await;
}

pub async fn a_job_comes_again_when_it_is_given_back(Two { one, other, _alive }: Two) {
    let queue = name("jobs", "back");
    one.push(&queue, bytes("first")).await.unwrap();
    let first = one.take(&queue).await.unwrap();
    one.again(&first.id, Duration::ZERO).await.unwrap();
    let first = other.take(&queue).await.unwrap();
    assert_eq!((&first.bytes[..], first.deliveries), (&b"first"[..], 2));
    // Later than a job that comes meanwhile.
    other.again(&first.id, Duration::from_millis(300)).await.unwrap();
    one.push(&queue, bytes("second")).await.unwrap();
    let taken = other.take(&queue).await.unwrap();
    assert_eq!(taken.bytes, "second");
    other.done(&taken.id).await.unwrap();
    let first = one.take(&queue).await.unwrap();
    assert_eq!((&first.bytes[..], first.deliveries), (&b"first"[..], 3));
    one.done(&first.id).await.unwrap();
    until("all are done", async || one.jobs(&queue).await.unwrap() == 0).await;
}

pub async fn jobs_come_to_those_who_wait(Two { one, other, _alive }: Two) {
    let (queue, beside) = (name("jobs", "waited"), name("jobs", "beside"));
    let mut takers = tokio::task::JoinSet::new();
    for taker in 0..4 {
        let (store, queue) = (if taker % 2 == 0 { one.clone() } else { other.clone() }, queue.clone());
        takers.spawn(async move {
            let job = store.take(&queue).await.unwrap();
            store.done(&job.id).await.unwrap();
            String::from_utf8(job.bytes.to_vec()).unwrap()
        });
    }
    one.push(&beside, bytes("of another queue")).await.unwrap();
    for job in ["0", "1", "2", "3"] {
        one.push(&queue, bytes(job)).await.unwrap();
    }
    let mut taken = BTreeSet::new();
    while let Some(job) = takers.join_next().await {
        taken.insert(job.unwrap());
    }
    assert_eq!(taken.into_iter().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    assert_eq!(other.take(&beside).await.unwrap().bytes, "of another queue");
}

pub async fn a_full_queue_takes_no_more(Two { one, other, _alive }: Two) {
    let queue = name("jobs", "full");
    for job in 0..MAX_JOBS {
        one.push(&queue, bytes(&job.to_string())).await.unwrap();
    }
    assert!(matches!(other.push(&queue, bytes("too many")).await, Err(StoreError::Crowded { .. })));
    // A job that is held has its place still; one that is done has none.
    let first = other.take(&queue).await.unwrap();
    assert_eq!(first.bytes, "0");
    assert!(matches!(other.push(&queue, bytes("too many")).await, Err(StoreError::Crowded { .. })));
    other.done(&first.id).await.unwrap();
    until("there is room", async || other.push(&queue, bytes("last")).await.is_ok()).await;
    assert_eq!(one.jobs(&queue).await.unwrap(), MAX_JOBS);
}

pub async fn a_key_is_replaced_by_who_knows_its_revision(Two { one, other, _alive }: Two) {
    let key = name("claim", "a");
    assert_eq!(one.get(&key).await.unwrap(), None);
    one.unset(&key, 0).await.unwrap();
    let first = one.set(&key, 0, bytes("first"), None).await.unwrap();
    assert_eq!(other.set(&key, 0, bytes("late"), None).await.unwrap_err(), StoreError::Conflict { last: first });
    let second = other.set(&key, first, bytes("second"), None).await.unwrap();
    assert!(second > first);
    assert_eq!(one.set(&key, first, bytes("late"), None).await.unwrap_err(), StoreError::Conflict { last: second });
    let entry = one.get(&key).await.unwrap().unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (second, &b"second"[..]));
    assert_eq!(one.unset(&key, first).await.unwrap_err(), StoreError::Conflict { last: second });
    assert_eq!(one.unset(&key, 0).await.unwrap_err(), StoreError::Conflict { last: second });
    one.unset(&key, second).await.unwrap();
    assert_eq!(other.get(&key).await.unwrap(), None);
    assert_eq!(other.set(&key, second, bytes("ghost"), None).await.unwrap_err(), StoreError::Conflict { last: 0 });
    let third = other.set(&key, 0, bytes("third"), None).await.unwrap();
    assert!(third > second);
    assert_eq!(one.get(&key).await.unwrap().unwrap().value, "third");
    assert_eq!(one.get(&name("claim", "b")).await.unwrap(), None);
}

pub async fn a_key_is_gone_after_its_lifetime(Two { one, other, _alive }: Two) {
    let (key, kept) = (name("claim", "short"), name("claim", "kept"));
    let second = Some(Duration::from_secs(1));
    let first = one.set(&key, 0, bytes("first"), second).await.unwrap();
    one.set(&kept, 0, bytes("kept"), Some(HOUR)).await.unwrap();
    until("it is gone", async || other.get(&key).await.unwrap().is_none()).await;
    assert_eq!(one.set(&key, first, bytes("ghost"), None).await.unwrap_err(), StoreError::Conflict { last: 0 });
    // The lifetime is of the value: another one has its own, or none.
    let again = other.set(&key, 0, bytes("again"), second).await.unwrap();
    other.set(&key, again, bytes("for good"), None).await.unwrap();
    let beside = name("claim", "beside");
    other.set(&beside, 0, bytes("beside"), second).await.unwrap();
    until("what was set later is gone", async || other.get(&beside).await.unwrap().is_none()).await;
    assert_eq!(one.get(&key).await.unwrap().unwrap().value, "for good");
    assert_eq!(one.get(&kept).await.unwrap().unwrap().value, "kept");
}

pub async fn a_blob_is_kept_whole(Two { one, other, _alive }: Two) {
    let blob = name("body", "a");
    assert_eq!(one.blob(&blob).await.unwrap(), None);
    let large: Bytes = (0..3_000_001u32).map(|n| n as u8).collect::<Vec<u8>>().into();
    one.put_blob(&blob, large.clone()).await.unwrap();
    assert_eq!(other.blob(&blob).await.unwrap().unwrap(), large);
    other.put_blob(&blob, Bytes::new()).await.unwrap();
    assert_eq!(one.blob(&blob).await.unwrap().unwrap(), "");
    one.remove_blob(&blob).await.unwrap();
    one.remove_blob(&blob).await.unwrap();
    assert_eq!(other.blob(&blob).await.unwrap(), None);
}

pub async fn what_is_too_large_is_refused(Two { one, _alive, .. }: Two) {
    let most = one.max_record_bytes();
    let (fits, too_large) = (Bytes::from(vec![7; most]), Bytes::from(vec![7; most + 1]));
    let refused = Err(StoreError::TooLarge { bytes: most + 1, most });
    let log = name("request", "large");
    assert_eq!(one.append(&log, 0, too_large.clone()).await, refused);
    assert_eq!(one.finish(&log, 0, too_large.clone(), HOUR).await, refused);
    assert_eq!(one.set(&log, 0, too_large.clone(), None).await, refused);
    assert_eq!(one.push(&log, too_large).await, refused.map(drop));
    let first = one.append(&log, 0, fits.clone()).await.unwrap();
    one.finish(&log, first, fits.clone(), HOUR).await.unwrap();
    one.set(&log, 0, fits.clone(), Some(HOUR)).await.unwrap();
    one.push(&log, fits.clone()).await.unwrap();
    assert_eq!(one.take(&log).await.unwrap().bytes, fits);
}
