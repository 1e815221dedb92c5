//! Callers, and whoever gives orders.

use super::graphs::FLOW;
use super::{Asked, Due, World};
use bytes::Bytes;
use stageline_core::durable::Wall;
use stageline_flow::run::{Accepted, Datum, Logged, Moment, Order, Ordering};

impl World {
    /// A caller's run: accepted once it is in the log and its job is pushed. A caller that has heard nothing asks again.
    pub fn ask(&mut self, run: usize) {
        if self.asked[run].accepted {
            return;
        }
        let again = self.now + 1000 + self.random.below(2000);
        if self.is_away() || (!self.calm() && self.chance(10)) {
            return self.at(again, Due::Ask { run });
        }
        let Asked { log, deadline, callback, input, seed, .. } = &self.asked[run];
        let accepted = Accepted {
            flow: FLOW.to_owned(),
            definition: format!("{run}"),
            input: Datum::of(input),
            deadline: *deadline,
            callback: callback.then(|| "http://somebody".to_owned()),
            principal: String::new(),
            call_id: format!("call-{run}"),
            digest: String::new(),
            nonce: *seed,
            retain_s: 3600,
        };
        let said = vec![Logged::Accepted(Box::new(accepted))];
        let record = serde_json::to_vec(&[Moment { at: Wall(self.now), said }]).unwrap();
        // Somebody has it in the log already: it was this caller, and it joins.
        let log = log.clone();
        let _ = self.store.append(self.since(), &log, 0, record.into());
        match self.random.below(if self.calm() { 8 } else { 10 }) {
            // The door dies here, or the caller does not hear of it.
            8 => self.at(again, Due::Ask { run }),
            9 => {
                let when = self.now + self.random.below(50);
                self.at(when, Due::Push { run });
                self.at(again, Due::Ask { run });
            }
            _ => {
                let when = self.now + self.random.below(50);
                self.at(when, Due::Push { run });
            }
        }
    }

    pub fn push(&mut self, run: usize) {
        let id = Bytes::copy_from_slice(&(run as u64).to_le_bytes());
        self.store.push(self.since(), &Self::queue(), id.clone()).unwrap();
        if !self.calm() && self.chance(15) {
            self.mark("a job was pushed twice");
            self.store.push(self.since(), &Self::queue(), id).unwrap();
        }
        self.asked[run].accepted = true;
    }

    /// Anybody may write that into the log, behind whatever is there.
    pub fn order(&mut self, run: usize, order: Order) {
        if self.is_away() {
            return self.at(self.now + 500, Due::Order { run, order });
        }
        let state = self.state(run);
        if state.accepted.is_none() {
            return;
        }
        let (now, log) = (self.since(), self.asked[run].log.clone());
        let mark = match &order {
            Order::Cancel { .. } => "a run was cancelled",
            Order::Pause | Order::Resume => "a run was paused",
            Order::Signal { .. } => "something was said",
            Order::Retry { .. } => "a run was tried anew",
        };
        match state.ordered_now(Wall(self.now), order) {
            Ordering::Append { record, push } => {
                let record = serde_json::to_vec(&record).unwrap();
                self.store.append(now, &log, state.last, record.into()).unwrap();
                self.mark(mark);
                if push {
                    self.mark("a parked run was woken");
                    self.push(run);
                }
            }
            Ordering::Renew { record } => {
                let record = serde_json::to_vec(&record).unwrap();
                self.store.renew(now, &log, state.last, record.into()).unwrap();
                self.mark(mark);
                (self.asked[run].tried_anew, self.asked[run].finished) = (true, None);
                self.push(run);
            }
            Ordering::Needless | Ordering::Refused(_) => {}
        }
    }
}
