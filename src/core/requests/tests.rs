//! A door, and stages that answer as the test says.

use super::*;
use crate::message::{Cause, Feedback, FrameContent, LinkMail, LinkReply, Report};
use crate::planted::Planted;
use crate::{Emission, Input, Opening, Sampling, Work};
use stageline_base::{Border, Task, Tensors, Trace};
use std::sync::Arc;

mod patience;
mod suspects;

/// A door with one place, whose stages answer as the test says.
struct Counter {
    door: DoorMachine,
    me: ReplicaId,
    opened: Vec<Arc<Opening>>,
    ended: Vec<(SequenceId, Result<FinishReason, Fault>)>,
}

fn at(ms: u64) -> Tick {
    Tick(ms * 1000)
}

impl Counter {
    fn new() -> Self {
        Self::with(Duration::from_secs(1))
    }

    fn with(queue_timeout: Duration) -> Self {
        Self::made(queue_timeout, 1)
    }

    fn with_places(places: u32) -> Self {
        Self::made(Duration::from_secs(1), places)
    }

    fn made(queue_timeout: Duration, max_num_seqs: u32) -> Self {
        let me = ReplicaId::new("door", 1);
        let setup = DoorSetup {
            me: me.clone(),
            boot: 1,
            max_num_seqs,
            max_queue: 10,
            queue_timeout,
            stage_timeout: Duration::from_secs(30),
            broker: Some("nats://somewhere".into()),
            ping_every: None,
            microbatches: 1,
            microbatches_away: 1,
            lease: Duration::from_secs(3),
            takes: Border::tokens(),
            gives: Border::vector(1),
            vocab: 100,
            planted: Planted::None,
        };
        let mut counter = Self { door: DoorMachine::new(at(0), setup), me, opened: Vec::new(), ended: Vec::new() };
        counter.live(at(0), &[]);
        let (epoch, credit_rows, credit_bytes) = (1, 1000, 4000);
        let welcome = LinkReply::Welcome { epoch, before: 0, got: 0, credit_rows, credit_bytes };
        counter.on(at(0), DoorEvent::Reply(welcome));
        counter
    }

    fn on(&mut self, now: Tick, event: DoorEvent) {
        let mut out = Vec::new();
        self.door.on(now, event, &mut out);
        let mut judged = Vec::new();
        for action in out {
            match action {
                DoorAction::Token { sequence, position, .. } => judged.push(Judged { sequence, position, end: None }),
                DoorAction::Ended { sequence, outcome } => self.ended.push((sequence, outcome)),
                DoorAction::Send {
                    body: Body::Link(LinkMail::Frame { content: FrameContent::Open(opening), .. }),
                    ..
                } => {
                    self.opened.push(opening);
                }
                _ => {}
            }
        }
        if !judged.is_empty() {
            self.on(now, DoorEvent::Judged(judged));
        }
    }

    /// The door's lease is seen, and those of `others`, which serve stages 1, 2 …
    fn live(&mut self, now: Tick, others: &[&[ReplicaId]]) {
        let own: &[ReplicaId] = std::slice::from_ref(&self.me);
        let candidate = |replica: &ReplicaId| Candidate {
            replica: replica.clone(),
            draining: false,
            live_sequences: 0,
            started_unix_ms: 0,
        };
        let stages = std::iter::once(own).chain(others.iter().copied());
        let replicas = stages.map(|replicas| replicas.iter().map(candidate).collect()).collect();
        self.on(now, DoorEvent::Replicas(replicas));
    }

    /// The fault with which the only request that has ended did.
    fn fault(&self) -> &Fault {
        match self.ended.as_slice() {
            [(_, Err(fault))] => fault,
            other => panic!("{other:?}"),
        }
    }

    fn submit(&mut self, now: Tick, max_tokens: u32) -> Result<SequenceId, Fault> {
        self.submit_as(now, max_tokens, false)
    }

    fn submit_as(&mut self, now: Tick, max_tokens: u32, patient: bool) -> Result<SequenceId, Fault> {
        let request = NewRequest {
            call_id: String::new(),
            trace: Trace::begun(7, 8),
            work: Work::of(Task::GENERATE, Sampling::GREEDY),
            input: Input::Tokens(vec![1]),
            generated: Vec::new(),
            max_tokens,
            deadline: now + Duration::from_secs(60),
            patient,
        };
        let submitted = self.door.submit(now, request);
        self.on(now, DoorEvent::Time);
        submitted
    }

    fn report(&mut self, now: Tick, report: Report) {
        let feedback = Feedback { stage: 0, number: 1, reports: vec![report] };
        self.on(now, DoorEvent::Feedback { from: self.me.clone(), feedback });
    }

    /// The replica of stage 1, the last, reports.
    fn report_from(&mut self, now: Tick, peer: &ReplicaId, report: Report) {
        let feedback = Feedback { stage: 1, number: 1, reports: vec![report] };
        self.on(now, DoorEvent::Feedback { from: peer.clone(), feedback });
    }

    /// The first request runs, and makes a token every 100 ms from `now` on; gives the time of the last one.
    fn runs(&mut self, now: Tick, sequence: SequenceId, tokens: u32) -> Tick {
        self.report(now, Report::Opened { sequence, attempt: 1 });
        let mut at = now;
        for position in 1..=tokens {
            at = at + Duration::from_millis(100);
            let emission = Emission::Token { id: 1, observed: None };
            self.report(at, Report::Emitted { sequence, attempt: 1, position, emission });
        }
        at
    }
}

#[test]
fn what_cannot_start_in_time_is_told_when_to_come_again() {
    let mut counter = Counter::new();
    let first = counter.submit(at(0), 100).unwrap();
    let now = counter.runs(at(0), first, 80);
    // 20 tokens to go, a tenth of a second each.
    let fault = counter.submit(now, 1).unwrap_err();
    assert_eq!((fault.class, fault.retry_after), (FaultClass::Overloaded, Some(Duration::from_secs(1))), "{fault}");
}

#[test]
fn an_answer_that_is_none_of_the_model_is_a_failure_and_no_silence() {
    let mut counter = Counter::new();
    let sequence = counter.submit(at(0), 5).unwrap();
    let mut now = counter.runs(at(0), sequence, 1);
    for attempt in 1..=4 {
        if attempt > 1 {
            counter.report(now, Report::Opened { sequence, attempt });
        }
        let emission = Emission::Tensors(Tensors::vector(&[1.0]));
        counter.report(now, Report::Emitted { sequence, attempt, position: 2, emission });
        now = now + Duration::from_secs(10);
        counter.on(now, DoorEvent::Time);
    }
    assert_eq!((counter.opened.len(), counter.fault().class), (4, FaultClass::DeviceFailed));
}

#[test]
fn who_can_start_in_time_waits_and_counts_for_those_behind() {
    let mut counter = Counter::new();
    let first = counter.submit(at(0), 100).unwrap();
    let now = counter.runs(at(0), first, 96);
    // 400 ms to go: one of half a second still starts in time, and one behind it, but nobody behind that.
    counter.submit(now, 5).unwrap();
    counter.submit(now, 5).unwrap();
    assert!(counter.submit(now, 5).is_err());
}

#[test]
fn with_no_time_to_wait_what_finds_room_at_once_has_it() {
    let mut counter = Counter::with(Duration::ZERO);
    let first = counter.submit(at(0), 5).unwrap();
    counter.runs(at(1), first, 1);
    assert!(counter.ended.is_empty());
    assert!(counter.submit(at(200), 5).is_err());
}

#[test]
fn who_waited_longer_than_estimated_makes_the_next_estimates_longer() {
    let mut counter = Counter::new();
    let first = counter.submit(at(0), 100).unwrap();
    let now = counter.runs(at(0), first, 92);
    // 800 ms by the pace so far, and 100 to the first token. It gets nowhere, and the next one starts after nine tenths more.
    let second = counter.submit(now, 2).unwrap();
    let later = now + Duration::from_millis(1520);
    counter.on(later, DoorEvent::Cancel(first));
    counter.runs(later, second, 1);
    assert_eq!(counter.door.pace.stretched(Duration::from_millis(900)).as_millis(), 990);
}

#[test]
fn a_pace_that_was_never_measured_is_not_taken_for_that_of_a_smaller_crowd() {
    let mut pace = pace::Pace::unknown();
    (0..100).for_each(|_| pace.token(Duration::from_millis(10), 2));
    let mut counter = Counter::new();
    let sequence = counter.submit(at(0), 10).unwrap();
    let live = &counter.door.live[&sequence];
    let left = |pace: &pace::Pace, crowd| pace.left(at(0), live, crowd).unwrap().as_millis();
    assert_eq!([1, 2, 3, 4, 64].map(|crowd| left(&pace, crowd)), [100, 100, 100, 200, 3200]);
    (0..100).for_each(|_| pace.token(Duration::from_millis(12), 64));
    assert_eq!([1, 2, 32, 64].map(|crowd| left(&pace, crowd)), [100, 100, 1600, 120]);
}

#[test]
fn many_prompts_that_have_yet_to_run_are_waited_for_as_places_are_but_few_are_not() {
    let mut counter = Counter::with_places(64);
    // A prompt of one row has its first token after 300 ms.
    let first = counter.submit(at(0), 1).unwrap();
    counter.report(at(0), Report::Opened { sequence: first, attempt: 1 });
    let emission = Emission::Token { id: 1, observed: None };
    counter.report(at(300), Report::Emitted { sequence: first, attempt: 1, position: 1, emission });
    // Seven more have a place each, and the eighth, though seven take over two seconds.
    for _ in 0..8 {
        counter.submit(at(1000), 1).unwrap();
    }
    let fault = counter.submit(at(1000), 1).unwrap_err();
    assert_eq!(
        (fault.class, fault.retry_after.map(|wait| wait.as_secs())),
        (FaultClass::Overloaded, Some(1)),
        "{fault}"
    );
    assert!(fault.message.contains("2.4 s"), "{fault}");
}

#[test]
fn a_missing_stage_is_waited_for_longer_than_room() {
    let mut counter = Counter::new();
    counter.live(at(0), &[&[]]);
    let sequence = counter.submit(at(1000), 1).unwrap();
    counter.on(at(30_999), DoorEvent::Time);
    assert!(counter.ended.is_empty(), "queue_timeout does not count while a stage is missing");
    counter.on(at(31_001), DoorEvent::Time);
    let fault = counter.fault();
    assert_eq!((counter.ended[0].0, fault.class, fault.stage), (sequence, FaultClass::Unavailable, Some(1)));
}

#[test]
fn who_waited_for_a_stage_has_its_time_for_room_before_it() {
    let mut counter = Counter::new();
    counter.live(at(0), &[&[]]);
    let first = counter.submit(at(0), 1).unwrap();
    counter.submit(at(0), 1).unwrap();
    counter.live(at(20_000), &[]);
    counter.report(at(20_000), Report::Opened { sequence: first, attempt: 1 });
    counter.on(at(20_999), DoorEvent::Time);
    assert!(counter.ended.is_empty());
    counter.on(at(22_001), DoorEvent::Time);
    assert_eq!(counter.fault().class, FaultClass::Overloaded, "there is one place, and it is taken");
}

#[test]
fn a_broker_that_is_away_is_waited_for_and_named_by_who_waits_and_by_who_was_under_way() {
    for under_way in [false, true] {
        let mut counter = Counter::new();
        let peer = ReplicaId::new("second", 2);
        counter.live(at(0), &[std::slice::from_ref(&peer)]);
        if under_way {
            let sequence = counter.submit(at(0), 50).unwrap();
            counter.report_from(at(0), &peer, Report::Opened { sequence, attempt: 1 });
        }
        counter.on(at(1000), DoorEvent::Held(false));
        if !under_way {
            counter.submit(at(1000), 50).unwrap();
        }
        counter.on(at(30_999), DoorEvent::Time);
        assert!(counter.ended.is_empty());
        counter.on(at(31_001), DoorEvent::Time);
        let fault = counter.fault();
        assert_eq!((fault.class, fault.stage), (FaultClass::Unavailable, None), "{fault}");
        assert!(fault.message.contains("nats://somewhere"), "{fault}");
    }
}

#[test]
fn who_was_cut_off_for_long_begins_again() {
    let mut counter = Counter::new();
    let peer = ReplicaId::new("second", 2);
    counter.live(at(0), &[std::slice::from_ref(&peer)]);
    let sequence = counter.submit(at(0), 50).unwrap();
    counter.report_from(at(0), &peer, Report::Opened { sequence, attempt: 1 });
    counter.on(at(1000), DoorEvent::Held(false));
    counter.on(at(9000), DoorEvent::Held(true));
    counter.on(at(9050), DoorEvent::Time);
    assert_eq!(counter.opened.last().map(|opening| (opening.sequence, opening.attempt)), Some((sequence, 2)));
    // Every attempt says whose it is.
    assert!(counter.opened.iter().all(|opening| opening.trace == Trace::begun(7, 8)));
}

#[test]
fn a_door_that_ends_without_the_broker_does_not_wait_to_be_heard() {
    let mut counter = Counter::new();
    let peer = ReplicaId::new("second", 2);
    counter.live(at(0), &[std::slice::from_ref(&peer)]);
    let sequence = counter.submit(at(0), 50).unwrap();
    // While its Open travels it is closed past the links.
    counter.on(at(10), DoorEvent::Cancel(sequence));
    assert!(!counter.door.is_quiet());
    counter.on(at(4000), DoorEvent::Held(false));
    let (epoch, got, broken) = (1, 2, false);
    counter
        .on(at(4000), DoorEvent::Reply(LinkReply::State { epoch, got, returned_rows: 0, returned_bytes: 0, broken }));
    assert!(counter.door.is_quiet());
}

#[test]
fn an_open_that_nobody_answers_is_sent_again_until_the_stage_is_given_up() {
    let mut counter = Counter::new();
    let peer = ReplicaId::new("second", 2);
    counter.live(at(0), &[std::slice::from_ref(&peer)]);
    let sequence = counter.submit(at(0), 50).unwrap();
    counter.on(at(8999), DoorEvent::Time);
    assert_eq!(counter.opened.len(), 1);
    counter.on(at(9000), DoorEvent::Time);
    counter.on(at(9100), DoorEvent::Time);
    assert_eq!(counter.opened.last().map(|opening| (opening.sequence, opening.attempt)), Some((sequence, 2)));
    counter.on(at(39_001), DoorEvent::Time);
    let fault = counter.fault();
    assert_eq!(fault.class, FaultClass::Unavailable, "{fault}");
}

#[test]
fn whoever_may_have_kept_an_open_is_passed_by_and_tried_again_beside_what_runs_there() {
    let mut counter = Counter::with_places(4);
    let (first, second) = (ReplicaId::new("first", 2), ReplicaId::new("second", 3));
    let both = [first.clone(), second.clone()];
    counter.live(at(0), &[&both]);
    let path = |counter: &Counter| counter.opened.last().map(|opening| opening.path[1].clone());
    let runs = counter.submit(at(0), 50).unwrap();
    counter.report_from(at(0), &first, Report::Opened { sequence: runs, attempt: 1 });
    let beside = counter.submit(at(0), 50).unwrap();
    assert_eq!(path(&counter), Some(second.clone()));
    counter.report_from(at(0), &second, Report::Opened { sequence: beside, attempt: 1 });
    let kept = counter.submit(at(10), 50).unwrap();
    assert_eq!(path(&counter), Some(first.clone()));
    counter.on(at(9010), DoorEvent::Time);
    counter.on(at(9100), DoorEvent::Time);
    assert_eq!(counter.opened.last().map(|opening| opening.sequence), Some(kept));
    assert_eq!(path(&counter), Some(second.clone()), "the one that has not answered is passed by");
    counter.report_from(at(9100), &second, Report::Opened { sequence: kept, attempt: 2 });
    // Half a second later it is tried again, whatever runs there, and by one alone.
    counter.submit(at(9600), 50).unwrap();
    assert_eq!(path(&counter), Some(first));
    assert_eq!(counter.door.suspects.len(), 1);
}
