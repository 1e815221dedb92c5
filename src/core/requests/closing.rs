//! Ends of requests and of replicas: every block that a request held anywhere is freed.

use super::paths::Known;
use super::{Candidate, DoorAction, DoorMachine, FinishReason, Phase};
use crate::link::ItemKind;
use crate::message::{Body, FrameContent};
use crate::out_link::item;
use crate::planted::Planted;
use stageline_base::{Attempt, Fault, ReplicaId, SequenceId, StageIndex, Tick};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often those that ended long ago are looked through.
const SWEEP: Duration = Duration::from_secs(1);
/// Requests that are remembered after their end, for replicas that may come back.
const MOST_ENDED: usize = 8192;

/// A request that has ended, remembered while a replica of its path may die with its Close.
#[derive(Debug)]
pub(super) struct Ended {
    sequence: SequenceId,
    attempt: Attempt,
    pub(super) used: BTreeSet<(StageIndex, ReplicaId)>,
    until: Tick,
}

impl DoorMachine {
    pub(super) fn end(
        &mut self,
        now: Tick,
        sequence: SequenceId,
        outcome: Result<FinishReason, Fault>,
        out: &mut Vec<DoorAction>,
    ) {
        let Some(live) = self.live.remove(&sequence) else { return };
        if outcome.is_ok() && live.progress.work().is_loop() {
            self.pace.answered(&live);
        }
        self.waiting.retain(|other| *other != sequence);
        self.forget_rows(sequence);
        out.push(DoorAction::Ended { sequence, outcome });
        if live.attempt == 0 {
            return;
        }
        // Room may have come free: those who were refused try again.
        self.hold_until = None;
        self.close_on_link(now, sequence, live.attempt, out);
        // After a replay the links of the path may not carry a Close to every replica that was ever used.
        if live.attempt > 1 || live.phase != Phase::Running {
            self.close_at(now, &live.used, (sequence, live.attempt), out);
        }
        let until = now + self.setup.lease * 2;
        self.ended.push_back(Ended { sequence, attempt: live.attempt, used: live.used, until });
    }

    /// Sends a Close down the path.
    pub(super) fn close_on_link(
        &mut self,
        now: Tick,
        sequence: SequenceId,
        attempt: Attempt,
        out: &mut Vec<DoorAction>,
    ) {
        let item = item(sequence, attempt, &self.setup.me, ItemKind::Close);
        let content = FrameContent::Close { sequence, attempt };
        self.with_link(now, out, |link, news| link.send_control(now, item, content, news));
    }

    fn close_now(
        &mut self,
        now: Tick,
        to: (StageIndex, ReplicaId),
        closes: Vec<(SequenceId, Attempt)>,
        out: &mut Vec<DoorAction>,
    ) {
        if !self.lives(to.0, &to.1) {
            return;
        }
        let number = self.closes.entry(to.clone()).or_default().add(now, closes.clone());
        out.push(DoorAction::Send { stage: to.0, to: to.1, body: Body::CloseNow { number, closes } });
    }

    /// A stage has trouble with a request that has ended: the Close on the links may not reach the stages behind it.
    pub(super) fn close_after_all(&mut self, now: Tick, sequence: SequenceId, out: &mut Vec<DoorAction>) {
        let Some(ended) = self.ended.iter().find(|ended| ended.sequence == sequence) else { return };
        let (attempt, used) = (ended.attempt, ended.used.clone());
        self.close_at(now, &used, (sequence, attempt), out);
    }

    /// Closes these and lower attempts past the links, at each of `replicas` that lives.
    pub(super) fn close_at(
        &mut self,
        now: Tick,
        replicas: &BTreeSet<(StageIndex, ReplicaId)>,
        close: (SequenceId, Attempt),
        out: &mut Vec<DoorAction>,
    ) {
        for to in replicas {
            self.close_now(now, to.clone(), vec![close], out);
        }
    }

    pub(super) fn send_closes_again(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        for ((stage, to), outbox) in &mut self.closes {
            for (number, closes) in outbox.due(now) {
                let body = Body::CloseNow { number, closes };
                out.push(DoorAction::Send { stage: *stage, to: to.clone(), body });
            }
        }
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP;
            self.forget_the_ended(now);
        }
    }

    /// A replica that is away comes back with all that it held, and nobody else tells it what has ended meanwhile.
    fn forget_the_ended(&mut self, now: Tick) {
        let mut ended = std::mem::take(&mut self.ended);
        let away = |used: &BTreeSet<(StageIndex, ReplicaId)>| used.iter().any(|(stage, it)| !self.lives(*stage, it));
        ended.retain(|ended| ended.until > now || away(&ended.used));
        let surplus = ended.len().saturating_sub(MOST_ENDED);
        ended.drain(..surplus);
        self.ended = ended;
    }

    /// Replicas came or went: attempts whose path has lost one are replayed; what the dead may have kept from the living is
    /// closed there, and what one that came back holds is closed, too: it never heard of the end.
    pub(super) fn on_replicas(&mut self, now: Tick, replicas: Vec<Vec<Candidate>>, out: &mut Vec<DoorAction>) {
        let before = ids(&self.know(replicas));
        let now_live = ids(&self.replicas);
        let lives = |stage: usize, replica: &ReplicaId| now_live.contains(&(stage as StageIndex, replica.clone()));
        let lived = |stage: usize, replica: &ReplicaId| before.contains(&(stage as StageIndex, replica.clone()));
        self.closes.retain(|(stage, replica), _| lives(usize::from(*stage), replica));
        self.suspects.retain(|replica, _| now_live.iter().any(|(_, living)| living == replica));
        let dead_stage = |path: &[ReplicaId]| {
            path.iter().enumerate().find(|(stage, replica)| !lives(*stage, replica)).map(|(stage, _)| stage)
        };
        let broken: Vec<(SequenceId, Attempt, StageIndex)> = self
            .live
            .iter()
            .filter(|(_, live)| live.is_on_path())
            .filter_map(|(sequence, live)| {
                dead_stage(&live.path).map(|stage| (*sequence, live.attempt, stage as StageIndex))
            })
            .collect();
        for (sequence, attempt, stage) in broken {
            if self.setup.planted == Planted::IgnoreDeath {
                break;
            }
            self.fail_attempt(now, (sequence, attempt), self.gone(stage), false, out);
        }
        let mut orphans: BTreeMap<(StageIndex, ReplicaId), Vec<(SequenceId, Attempt)>> = BTreeMap::new();
        let ended = self.ended.iter().map(|ended| (ended.sequence, ended.attempt, &ended.used));
        // Of a request that goes on, the attempts before the one that is under way.
        let failed = self
            .live
            .iter()
            .map(|(sequence, live)| (*sequence, live.attempt.saturating_sub(u32::from(live.is_on_path())), &live.used));
        for (sequence, attempt, used) in ended.chain(failed).filter(|(_, attempt, _)| *attempt > 0) {
            let steady = |(stage, replica): &(StageIndex, ReplicaId)| {
                lives(usize::from(*stage), replica) == lived(usize::from(*stage), replica)
            };
            if used.iter().all(steady) {
                continue;
            }
            for to in used.iter().filter(|(stage, replica)| lives(usize::from(*stage), replica)) {
                orphans.entry(to.clone()).or_default().push((sequence, attempt));
            }
        }
        for (to, closes) in orphans {
            self.close_now(now, to, closes, out);
        }
        self.hold_until = None;
    }
}

/// Who is in `replicas`.
fn ids(replicas: &[Vec<Known>]) -> BTreeSet<(StageIndex, ReplicaId)> {
    let of_stage = |(stage, replicas): (StageIndex, &Vec<Known>)| {
        replicas.iter().map(move |known| (stage, known.candidate.replica.clone())).collect::<Vec<_>>()
    };
    (0..).zip(replicas).flat_map(of_stage).collect()
}
