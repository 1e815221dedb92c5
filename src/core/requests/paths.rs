//! Which replicas a sequence goes through: at stage 0 the door's own, of every other stage the least loaded that takes new
//! sequences and can be reached.

use super::{Candidate, DoorAction, DoorMachine, Live, Phase};
use crate::message::Body;
use crate::planted::Planted;
use stageline_base::{Attempt, ReplicaId, SequenceId, StageIndex, Tick};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a replica at which nobody listened is passed by. It is looked for all the while, and each time that nobody listens
/// counts anew; so it is one that is back that is taken again after this.
const PASSED_BY: Duration = Duration::from_millis(500);

/// How long a replica that an attempt failed at is opened nothing, where another serves; it doubles up to [`SUSPECT_MOST`].
const SUSPECT: Duration = Duration::from_millis(500);
/// The longest of those times.
const SUSPECT_MOST: Duration = Duration::from_secs(30);

/// A replica lives, and attempts fail on their way to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    until: Tick,
    wait: Duration,
}

/// A candidate, and what of its load is this door's.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) candidate: Candidate,
    /// Sequences of this door that were there when its record came.
    own_then: u32,
}

impl Live {
    /// Whether its path holds it, or is about to.
    pub(super) fn is_on_path(&self) -> bool {
        matches!(self.phase, Phase::Opening | Phase::Running)
    }

    /// Whether its path leads out of this process.
    pub(super) fn leaves(&self) -> bool {
        self.path.len() > 1
    }
}

impl DoorMachine {
    /// Whether `replica` of `stage` holds a lease.
    pub(super) fn lives(&self, stage: StageIndex, replica: &ReplicaId) -> bool {
        let replicas = self.replicas.get(usize::from(stage));
        replicas.is_some_and(|replicas| replicas.iter().any(|known| known.candidate.replica == *replica))
    }

    pub(super) fn usable(&self, stage: usize) -> impl Iterator<Item = &Known> {
        let replicas = self.replicas.get(stage).into_iter().flatten();
        replicas.filter(|known| {
            let takes_new = !known.candidate.draining || self.setup.planted == Planted::OpenAtDraining;
            takes_new && !self.unreachable.contains_key(&known.candidate.replica)
        })
    }

    /// A path for a new attempt; `None` while a stage is missing.
    pub(super) fn choose_path(&self, now: Tick) -> Option<Vec<ReplicaId>> {
        let least_loaded = |stage| {
            let replicas = self.usable(stage);
            // Of equally loaded ones the newest: of a restarted stage the old replica's lease may still run.
            let newest = |known: &Known| Reverse(known.candidate.started_unix_ms);
            let best = replicas
                .min_by_key(|known| (self.is_suspect(now, stage, known), self.load(stage, known), newest(known)));
            best.map(|known| known.candidate.replica.clone())
        };
        let others = (1..self.replicas.len()).map(least_loaded);
        self.lives(0, &self.setup.me).then(|| std::iter::once(Some(self.setup.me.clone())).chain(others).collect())?
    }

    /// Sequences that a replica holds, as far as is known: other doors' by its record, this one's as of now.
    fn load(&self, stage: usize, known: &Known) -> u32 {
        let others = known.candidate.live_sequences.saturating_sub(known.own_then);
        others.saturating_add(self.own(stage, &known.candidate.replica))
    }

    /// Sequences of this door at a replica.
    fn own(&self, stage: usize, replica: &ReplicaId) -> u32 {
        let on_it = |live: &&Live| live.is_on_path() && live.path.get(stage) == Some(replica);
        self.live.values().filter(on_it).count() as u32
    }

    /// An attempt was lost on its way into `stage`.
    pub(super) fn suspect(&mut self, now: Tick, (sequence, attempt): (SequenceId, Attempt), stage: StageIndex) {
        let live = self.live.get(&sequence).filter(|live| live.attempt == attempt && live.is_on_path() && stage > 0);
        let Some(replica) = live.and_then(|live| live.path.get(usize::from(stage))) else { return };
        let wait = match self.suspects.get(replica) {
            Some(before) if before.until > now => return,
            Some(before) => (before.wait * 2).min(SUSPECT_MOST),
            None => SUSPECT,
        };
        self.suspects.insert(replica.clone(), Suspicion { until: now + wait, wait });
    }

    /// Whether others go before it: until its time is over, and then while one attempt finds out.
    fn is_suspect(&self, now: Tick, stage: usize, known: &Known) -> bool {
        let replica = &known.candidate.replica;
        let finds_out =
            || self.live.values().any(|live| live.phase == Phase::Opening && live.path.get(stage) == Some(replica));
        self.suspects.get(replica).is_some_and(|it| it.until > now || finds_out())
    }

    /// Takes the newest records in, and gives back those before.
    pub(super) fn know(&mut self, replicas: Vec<Vec<Candidate>>) -> Vec<Vec<Known>> {
        let known = |stage: usize, candidate: Candidate| {
            let before = self.replicas.get(stage).into_iter().flatten().find(|known| known.candidate == candidate);
            let own_then = before.map_or_else(|| self.own(stage, &candidate.replica), |known| known.own_then);
            Known { candidate, own_then }
        };
        let newest: Vec<Vec<Known>> = (0..)
            .zip(replicas)
            .map(|(stage, replicas)| replicas.into_iter().map(|candidate| known(stage, candidate)).collect())
            .collect();
        std::mem::replace(&mut self.replicas, newest)
    }

    /// Nobody listens at `replica`: what is on its way through it is replayed at once, where another serves.
    pub(super) fn on_unreachable(&mut self, now: Tick, replica: &ReplicaId, out: &mut Vec<DoorAction>) {
        let stages = 1..self.replicas.len() as StageIndex;
        let Some(stage) = stages.into_iter().find(|stage| self.lives(*stage, replica)) else { return };
        self.unreachable.insert(replica.clone(), now + PASSED_BY);
        let on_it = |live: &Live| live.is_on_path() && live.path.get(usize::from(stage)) == Some(replica);
        for attempt in self.attempts(on_it) {
            if self.setup.planted == Planted::IgnoreDeath {
                break;
            }
            self.fail_attempt(now, attempt, self.gone(stage), false, out);
        }
    }

    /// Looks for the replicas of all paths, and for those that could not be reached.
    pub(super) fn look_for_replicas(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        let Some(every) = self.setup.ping_every.filter(|_| self.ping_at <= now && self.has_to_ping()) else { return };
        self.ping_at = now + every;
        let others = self.live.values().filter(|live| live.is_on_path()).flat_map(|live| (0..).zip(&live.path).skip(1));
        let lost = (0..).zip(&self.replicas).flat_map(|(stage, replicas)| {
            let lost = replicas.iter().filter(|known| self.unreachable.contains_key(&known.candidate.replica));
            lost.map(move |known| (stage, &known.candidate.replica))
        });
        let targets: BTreeSet<(StageIndex, &ReplicaId)> = others.chain(lost).collect();
        for (stage, to) in targets {
            out.push(DoorAction::Send { stage, to: to.clone(), body: Body::Ping });
        }
    }

    /// While the broker is away a ping would wait for it.
    fn has_to_ping(&self) -> bool {
        let somebody =
            !self.unreachable.is_empty() || self.live.values().any(|live| live.is_on_path() && live.leaves());
        self.cut_since.is_none() && somebody
    }

    /// When [`DoorMachine::look_for_replicas`] has something to do.
    pub(super) fn next_look(&self) -> Option<Tick> {
        let ping = self.setup.ping_every.and_then(|_| self.has_to_ping().then_some(self.ping_at));
        ping.into_iter().chain(self.unreachable.values().copied()).min()
    }
}
