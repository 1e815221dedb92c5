//! What an owner makes of what the log says.

use super::{Owner, State, cancelled_fault};
use crate::durable::{Life, Logged, OwnerAction, OwnerSetup, Wall};
use crate::planted::Planted;

impl Owner {
    /// Takes in what stands behind what it knew.
    pub(super) fn read(&mut self, now: Wall, records: Vec<(u64, Vec<Logged>)>, out: &mut Vec<OwnerAction>) {
        self.reading = false;
        if self.state == State::Reading {
            self.life = Life::of(records.iter().map(|(position, record)| (*position, &record[..])));
            if self.life.accepted.is_none() || self.life.delivered.is_some() {
                // It is over and forgotten, or over: the job outlived it.
                self.over(OwnerAction::Done, out);
                return;
            }
            let is_later = self.life.delivery > self.setup.delivery;
            if self.gives_way(is_later, out) {
                return;
            }
            self.state = State::Claiming;
            let OwnerSetup { me, job, delivery, .. } = &self.setup;
            self.waiting.push(Logged::Owned { door: me.clone(), job: *job, delivery: *delivery });
            return;
        }
        for (position, record) in records {
            if position <= self.life.last {
                continue;
            }
            let is_ours = self.writing.as_ref().is_some_and(|writing| writing.record == record);
            if is_ours && let Some(writing) = self.writing.take() {
                self.wrote(now, position, writing, out);
                if self.is_over() {
                    return;
                }
                continue;
            }
            // Two takings may have one number, where a broker forgot its last moments: who stands behind us in the log is the later. Before
            // we stand there, an earlier taking's owner is not.
            let least = if self.state == State::Claiming { self.setup.delivery } else { 0 };
            let is_owned = |logged: &Logged| matches!(logged, Logged::Owned { delivery, .. } if *delivery >= least);
            let is_later = record.iter().any(is_owned);
            let is_anew = matches!(record.first(), Some(Logged::Accepted(_)));
            self.life.take(position, &record);
            if self.gives_way(is_later, out) {
                return;
            }
            // It was ended by another and is tried anew, or its log was lost and somebody asks by the same name: either has a job of its own.
            if is_anew {
                self.stop(out);
                self.over(OwnerAction::Done, out);
                return;
            }
        }
        if self.life.cancelled && self.is_under_way() {
            self.stop(out);
            self.ends(now, Err(cancelled_fault()));
        }
        if let Some(writing) = &mut self.writing
            && writing.unsure
        {
            // It was not done, or will be if nobody is faster: once more, behind what stands there now.
            writing.unsure = false;
            writing.unknown += 1;
            // At once the first time: most often it was lost, or somebody was faster.
            match writing.unknown {
                1 => self.write(out),
                _ => writing.again_at = Some(Wall(now.0 + self.setup.retry_ms)),
            }
        }
    }

    /// Ends it here if the log says that it is over, or another's (`is_later`): nothing that is said here counts then.
    fn gives_way(&mut self, is_later: bool, out: &mut Vec<OwnerAction>) -> bool {
        let Life { job, delivered, .. } = &self.life;
        let is_twin = job.is_some_and(|job| job != self.setup.job);
        let last = match (delivered.is_some(), is_twin, is_later) {
            (false, false, false) => return false,
            // The request has another job, by which it is somebody's.
            (false, true, _) => OwnerAction::Done,
            (false, false, true) if self.setup.planted == Planted::SettleFenced => OwnerAction::Done,
            // Said by us, it would take the job from under its owner.
            (false, false, true) => OwnerAction::Leave,
            // Nothing is left to do, whoever did it.
            (true, ..) => OwnerAction::Done,
        };
        self.stop(out);
        self.over(last, out);
        true
    }

    /// Whoever can read it takes it on. In a log that we own, that is who follows us.
    pub(super) fn unreadable(&mut self, out: &mut Vec<OwnerAction>) {
        self.stop(out);
        let after_ms = 10 * self.setup.retry_ms;
        let last = if self.state == State::Reading { OwnerAction::Again { after_ms } } else { OwnerAction::Leave };
        self.over(last, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Owner, OwnerSetup};
    use crate::durable::{Accepted, Logged, OwnerAction, OwnerEvent, Refused, Wall};
    use crate::planted::Planted;
    use bytes::Bytes;
    use stageline_base::ReplicaId;

    fn accepted(request: &'static [u8]) -> Logged {
        Logged::Accepted(Accepted { request: Bytes::from_static(request), deadline: Wall(60_000), callback: false })
    }

    /// An owner whose claim stands at 11, behind the request at 10, and that runs it.
    fn owner() -> Owner {
        let setup = OwnerSetup {
            me: ReplicaId::new("door", 1),
            job: 7,
            delivery: 1,
            beat_ms: 1000,
            retry_ms: 500,
            alone_after: 2,
            planted: Planted::None,
        };
        let mut out = Vec::new();
        let mut owner = Owner::new(Wall(0), setup, &mut out);
        owner.on(Wall(0), OwnerEvent::Read(vec![(10, vec![accepted(b"old")])]), &mut out);
        owner.on(Wall(0), OwnerEvent::Written { write: 1, written: Ok(11) }, &mut out);
        assert!(matches!(out.last(), Some(OwnerAction::Run { .. })), "{out:?}");
        owner
    }

    /// What an owner does that has begun an answer when its append is `refused`, and where the log holds `records` behind what it knew.
    fn does(refused: Refused, records: Option<(u64, Vec<Logged>)>) -> Vec<OwnerAction> {
        let (mut owner, mut out) = (owner(), Vec::new());
        owner.on(Wall(1), OwnerEvent::Began(5), &mut out);
        owner.on(Wall(2), OwnerEvent::Written { write: 2, written: Err(refused) }, &mut out);
        owner.on(Wall(3), OwnerEvent::Read(records.into_iter().collect()), &mut out);
        out
    }

    #[test]
    fn whose_log_is_gone_or_begun_anew_owns_nothing() {
        let over = [OwnerAction::Stop, OwnerAction::Done];
        assert!(does(Refused::EndsAt(0), None).ends_with(&over));
        // It was lost, and somebody else's request has the name; or it was ended by another, and is tried anew.
        let anew = (500, vec![accepted(b"new")]);
        let done = does(Refused::EndsAt(500), Some(anew));
        assert!(done.ends_with(&over), "{done:?}");
        // Another's word between is no reason.
        let again = does(Refused::EndsAt(12), Some((12, vec![Logged::Began { prompt_tokens: 5 }, Logged::Released])));
        assert!(matches!(again.last(), Some(OwnerAction::Append { after: 12, .. })), "{again:?}");
    }
}
