//! What anybody with a right to may write into a run's log.

use super::logged::{Ended, Logged, Moment, Order};
use super::state::State;
use stageline_core::durable::Wall;

/// What is to be done so that a run hears of an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Ordering {
    /// Append this behind the log's last record. With `push`, a job for the run follows: nobody has it in hand.
    Append {
        /// The record.
        record: Vec<Moment>,
        /// Whether a job is to be pushed.
        push: bool,
    },
    /// The run has ended: put this in place of its log, then push a job.
    Renew {
        /// The record.
        record: Vec<Moment>,
    },
    /// It is so already.
    Needless,
    /// The run has ended, or there is nothing to try again: words that say so.
    Refused(&'static str),
}

impl State {
    /// What `order` asks for, given now to a run that stands so.
    pub fn ordered_now(&self, now: Wall, order: Order) -> Ordering {
        let is_over = self.delivered.is_some();
        match &order {
            Order::Retry { from, .. } => match &self.ended {
                Some(_) if !is_over => return Ordering::Refused("the run's end is being told: try again"),
                Some(Ended::Succeeded(_)) if from.is_none() => {
                    return Ordering::Refused("the run has succeeded: say from which node on it is to be done again");
                }
                Some(_) => {
                    let mut record = self.whole();
                    record.push(Moment { at: now, said: vec![Logged::Ordered(order), Logged::Requeued] });
                    return Ordering::Renew { record };
                }
                None => return Ordering::Refused("the run has not ended: there is nothing to try again"),
            },
            _ if self.ended.is_some() => return Ordering::Refused("the run has ended"),
            Order::Cancel { .. }
                if self.paused.is_none() && (self.is_stopping() || self.phase != Some(super::Phase::Main)) =>
            {
                return Ordering::Needless;
            }
            Order::Pause if self.paused.is_some() => return Ordering::Needless,
            Order::Resume if self.paused.is_none() => return Ordering::Needless,
            _ => {}
        }
        let push = self.owner.is_none();
        let mut said = vec![Logged::Ordered(order)];
        if push {
            said.push(Logged::Requeued);
        }
        Ordering::Append { record: vec![Moment { at: now, said }], push }
    }
}
