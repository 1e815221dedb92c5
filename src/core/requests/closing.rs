//! Ends of requests and of replicas: every block that a request held anywhere is freed.

use super::{DoorAction, DoorMachine, FinishReason, Phase, missing};
use crate::base::{Attempt, Fault, ReplicaId, SequenceId, StageIndex, Tick};
use crate::core::link::ItemKind;
use crate::core::machine::Planted;
use crate::core::message::{Body, LinkLoad};
use crate::core::out_link::item;
use std::collections::BTreeSet;

/// A request that has ended, remembered while a replica of its path may die with its Close.
#[derive(Debug)]
pub(super) struct Ended {
    sequence: SequenceId,
    attempt: Attempt,
    used: BTreeSet<(StageIndex, ReplicaId)>,
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
        let load = LinkLoad::Close { sequence, attempt };
        self.with_link(now, out, |link, news| link.send_control(now, item, load, news));
    }

    fn close_now(
        &mut self,
        now: Tick,
        to: (StageIndex, ReplicaId),
        closes: Vec<(SequenceId, Attempt)>,
        out: &mut Vec<DoorAction>,
    ) {
        let alive = self.replicas.get(usize::from(to.0)).is_some_and(|replicas| replicas.contains(&to.1));
        if !alive {
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
        while self.ended.front().is_some_and(|ended| ended.until <= now) {
            self.ended.pop_front();
        }
    }

    /// Replicas came or went: attempts whose path has lost one are replayed; what the dead may have kept from the living is
    /// closed there, and what one that came back holds is closed, too: it never heard of the end.
    pub(super) fn on_replicas(&mut self, now: Tick, replicas: Vec<Vec<ReplicaId>>, out: &mut Vec<DoorAction>) {
        let before = std::mem::replace(&mut self.replicas, replicas.clone());
        let lives = |stage: usize, replica: &ReplicaId| replicas.get(stage).is_some_and(|live| live.contains(replica));
        let lived = |stage: usize, replica: &ReplicaId| before.get(stage).is_some_and(|live| live.contains(replica));
        self.closes.retain(|(stage, replica), _| lives(usize::from(*stage), replica));
        let dead_stage = |path: &[ReplicaId]| {
            path.iter().enumerate().find(|(stage, replica)| !lives(*stage, replica)).map(|(stage, _)| stage)
        };
        let broken: Vec<(SequenceId, Attempt, StageIndex)> = self
            .live
            .iter()
            .filter(|(_, live)| matches!(live.phase, Phase::Opening | Phase::Running))
            .filter_map(|(sequence, live)| {
                dead_stage(&live.path).map(|stage| (*sequence, live.attempt, stage as StageIndex))
            })
            .collect();
        for (sequence, attempt, stage) in broken {
            if self.setup.planted == Planted::IgnoreDeath {
                break;
            }
            self.fail_attempt(now, (sequence, attempt), missing(stage), false, out);
        }
        let mut orphans: Vec<((StageIndex, ReplicaId), SequenceId, Attempt)> = Vec::new();
        let ended = self.ended.iter().map(|ended| (ended.sequence, ended.attempt, &ended.used));
        // Of a request that goes on, the attempts before the one that is under way.
        let failed = self.live.iter().map(|(sequence, live)| {
            let under_way = matches!(live.phase, Phase::Opening | Phase::Running);
            (*sequence, live.attempt.saturating_sub(u32::from(under_way)), &live.used)
        });
        for (sequence, attempt, used) in ended.chain(failed).filter(|(_, attempt, _)| *attempt > 0) {
            let steady = |(stage, replica): &(StageIndex, ReplicaId)| {
                lives(usize::from(*stage), replica) && lived(usize::from(*stage), replica)
            };
            if used.iter().all(steady) {
                continue;
            }
            let living = used.iter().filter(|(stage, replica)| lives(usize::from(*stage), replica));
            orphans.extend(living.map(|to| (to.clone(), sequence, attempt)));
        }
        for (to, sequence, attempt) in orphans {
            self.close_now(now, to, vec![(sequence, attempt)], out);
        }
        self.hold_until = None;
    }
}
