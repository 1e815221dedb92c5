//! Whom a stage listens to, and whom it tells.
//!
//! A transport vouches for the name and the stage of a mail's sender, as far as its broker lets it; what a name may say is
//! decided here. The living are those whose lease was seen and whose end was not told. A replica that is not among them may
//! live all the same: its lease has not been seen yet, or its renewal is late. Nothing is lost by that, since whoever is
//! not answered asks again: a link greets, a CloseNow is sent until it is acknowledged, and an Open waits for its door.

use super::{Action, StageMachine, StageSetup};
use crate::Opening;
use crate::message::{Body, LinkMail, Report};
use crate::planted::Planted;
use crate::refusal::Refusal;
use stageline_base::{Attempt, ReplicaId, SequenceId, StageIndex, Tick};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How far above the last epoch of a sender its next may be.
const EPOCH_STEP: u32 = 1024;
/// A ceiling is a multiple of this, and at least this far ahead of need: a renewal is seen before the links are there.
const CEILING_STEP: u32 = 512;
/// The ceiling of a stage that has no link yet.
pub const FIRST_EPOCHS: u32 = 2 * CEILING_STEP;
/// Messages that one door has not acknowledged; more are not kept. One that acknowledges nothing is as good as gone.
const MOST_UNHEARD: usize = 16_384;

/// The living, as the stage has been told of them, and those of its own process.
#[derive(Debug)]
pub(super) struct Roll {
    me: ReplicaId,
    stage: StageIndex,
    direct: Option<ReplicaId>,
    living: BTreeMap<ReplicaId, (StageIndex, u32)>,
}

impl Roll {
    pub(super) fn new(setup: &StageSetup) -> Self {
        let (me, direct) = (setup.me.clone(), setup.direct.clone());
        Self { me, stage: setup.stage, direct, living: BTreeMap::new() }
    }

    /// Whether it may have a link into this stage. Into stage 0 only this process's own door has one.
    fn may_send(&self, from: &ReplicaId) -> bool {
        let before = self.stage.checked_sub(1);
        self.is_here(from) || before.is_some_and(|before| self.stage_of(from) == Some(before))
    }

    /// Whether it is a door: a living replica of stage 0, or one of this process.
    fn is_door(&self, replica: &ReplicaId) -> bool {
        self.is_here(replica) || self.stage_of(replica) == Some(0)
    }

    /// Whether a door of that boot nonce lives.
    fn has_door(&self, boot: u64) -> bool {
        let here = [Some(&self.me).filter(|_| self.stage == 0), self.direct.as_ref()];
        let living = self.living.iter().filter(|(_, (stage, _))| *stage == 0).map(|(replica, _)| replica);
        living.chain(here.into_iter().flatten()).any(|replica| replica.boot() == boot)
    }

    /// Whether it is the door of this process, or whoever runs rows past it.
    fn is_here(&self, replica: &ReplicaId) -> bool {
        self.direct.as_ref() == Some(replica) || (self.stage == 0 && self.me == *replica)
    }

    fn stage_of(&self, replica: &ReplicaId) -> Option<StageIndex> {
        self.living.get(replica).map(|(stage, _)| *stage)
    }

    /// What its record says of its links' epochs.
    fn epochs(&self, replica: &ReplicaId) -> u32 {
        match self.is_here(replica) {
            true => u32::MAX,
            false => self.living.get(replica).map_or(0, |(_, epochs)| *epochs),
        }
    }
}

impl StageMachine {
    /// An epoch that none of this replica's links will be above for a while. Its lease's record must state it before they
    /// are: a receiver that does not know a link of ours takes no higher one.
    pub fn epoch_ceiling(&self) -> u32 {
        let highest = self.downstream.values().map(|link| link.epoch()).fold(self.new_epoch, u32::max);
        (highest / CEILING_STEP).saturating_add(2).saturating_mul(CEILING_STEP)
    }

    pub(super) fn refuse(&mut self, why: Refusal) {
        self.counts.refused[why as usize] += 1;
    }

    /// Whether a link's mail of `from` counts at all.
    pub(super) fn hears(&mut self, from: &ReplicaId, mail: &LinkMail) -> bool {
        if self.setup.planted == Planted::HearStrangers {
            return true;
        }
        if !self.roll.may_send(from) {
            self.refuse(Refusal::Stranger);
            return false;
        }
        let LinkMail::Hello { epoch } = mail else { return true };
        let last = self.upstream.get(from).map_or(0, |link| link.epoch());
        let most = if last == 0 { 0 } else { last.saturating_add(EPOCH_STEP) };
        if *epoch > most.max(self.roll.epochs(from)) && self.setup.planted != Planted::TakeAnyEpoch {
            self.refuse(Refusal::Epoch);
            return false;
        }
        true
    }

    /// Whether rows, an Open or a Close of a sequence with this opening come from `from`.
    pub(super) fn comes_from(&self, from: &ReplicaId, opening: &Opening) -> bool {
        // A door's path begins with the stage 0 of its own process.
        let first = self.setup.stage == 0 || opening.path.first() == Some(&opening.door);
        let sender = match self.setup.stage.checked_sub(1) {
            Some(before) => opening.path.get(usize::from(before)),
            None => Some(&opening.door),
        };
        first && sender == Some(from)
    }

    /// Whether an Open is its sender's and its door's. One whose door has not been seen yet waits.
    pub(super) fn may_open(&mut self, now: Tick, from: &ReplicaId, opening: &Arc<Opening>) -> bool {
        if self.setup.planted == Planted::OpenForAnyDoor {
            return true;
        }
        if !self.comes_from(from, opening) || opening.sequence.boot != opening.door.boot() {
            self.refuse(Refusal::Foreign);
            return false;
        }
        if self.roll.is_door(&opening.door) {
            return true;
        }
        if self.setup.planted != Planted::ForgetEarlyOpen {
            if self.early.len() >= self.setup.max_num_seqs as usize {
                self.early.remove(0);
                self.refuse(Refusal::Stranger);
            }
            self.early.push((now + self.setup.lease * 2, opening.clone()));
        }
        false
    }

    /// Whether `from`, which may send links, may close that on one.
    pub(super) fn may_close(&mut self, from: &ReplicaId, sequence: SequenceId, attempt: Attempt) -> bool {
        let held = self.sequences.get(&sequence).filter(|held| held.opening.attempt <= attempt);
        let may = match held {
            Some(held) => self.comes_from(from, &held.opening),
            None if self.setup.stage == 0 => sequence.boot == from.boot(),
            // Of a door that is gone nothing can be opened that would have to stay closed, but for what waits for it.
            None => self.roll.has_door(sequence.boot) || self.early.iter().any(|(_, early)| early.sequence == sequence),
        };
        if !may {
            self.refuse(Refusal::Foreign);
        }
        may
    }

    pub(super) fn on_close_now(
        &mut self,
        now: Tick,
        from: ReplicaId,
        (number, closes): (u64, Vec<(SequenceId, Attempt)>),
        out: &mut Vec<Action>,
    ) {
        let anyone = self.setup.planted == Planted::CloseForAnyone;
        if !self.roll.is_door(&from) && !anyone {
            return self.refuse(Refusal::Stranger);
        }
        for (sequence, attempt) in closes {
            match sequence.boot == from.boot() || anyone {
                true => self.close(now, sequence, attempt, out),
                false => self.refuse(Refusal::Foreign),
            }
        }
        out.push(Action::Send { stage: 0, to: from, body: Body::CloseAck { number } });
    }

    /// A lease was seen: from now on its holder counts, and Opens that were ahead of it are taken in.
    pub(super) fn on_lives(
        &mut self,
        now: Tick,
        (replica, stage): (ReplicaId, StageIndex),
        epochs: u32,
        out: &mut Vec<Action>,
    ) {
        self.gone_doors.remove(&replica);
        self.roll.living.insert(replica.clone(), (stage, epochs));
        let waited = std::mem::take(&mut self.early);
        let (its_own, others): (Vec<_>, Vec<_>) =
            waited.into_iter().partition(|(_, opening)| opening.door == replica && stage == 0);
        self.early = others;
        for (_, opening) in its_own {
            self.open(now, opening, out);
        }
    }

    /// A lease is over: if a door's, it is told of that for a while.
    pub(super) fn strike_off(&mut self, now: Tick, replica: &ReplicaId) {
        if self.roll.living.remove(replica).is_some_and(|(stage, _)| stage == 0) {
            self.gone_doors.insert(replica.clone(), now + self.setup.lease * 2);
        }
    }

    /// Tells `door`, if it holds a lease or has just lost it.
    pub(super) fn report(&mut self, door: &ReplicaId, report: Report) {
        let told = self.roll.is_door(door) || self.gone_doors.contains_key(door);
        let unheard = self.doors.get(door).map_or(0, |outbox| outbox.len());
        if unheard < MOST_UNHEARD && (told || self.setup.planted == Planted::TellAnyone) {
            self.reports.entry(door.clone()).or_default().push(report);
        } else {
            self.refuse(Refusal::Lapsed);
        }
    }

    /// Forgets doors that have been gone for long, and Opens whose door has not come.
    pub(super) fn forget_the_gone(&mut self, now: Tick) {
        self.gone_doors.retain(|_, until| *until > now);
        let Self { doors, roll, gone_doors, early, counts, setup, .. } = self;
        doors.retain(|door, outbox| {
            let stays = roll.is_door(door) || gone_doors.contains_key(door) || setup.planted == Planted::TellAnyone;
            counts.refused[Refusal::Lapsed as usize] += if stays { 0 } else { outbox.len() as u64 };
            stays
        });
        let waiting = early.len();
        early.retain(|(until, _)| *until > now);
        counts.refused[Refusal::Stranger as usize] += (waiting - early.len()) as u64;
    }
}
