//! What a durable request's log says, and what that comes to.

use crate::Observed;
use crate::progress::FinishReason;
use bytes::Bytes;
use stageline_base::{Fault, ReplicaId, Tensors, TokenId};

/// Milliseconds since 1970: what is counted over restarts cannot count from a process' start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall(pub u64);

/// A request as it was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The request, in the door's own form.
    pub request: Bytes,
    /// It must have ended by then.
    pub deadline: Wall,
    /// Whether somebody is to be told of its end.
    pub callback: bool,
}

/// A token of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedToken {
    /// The token.
    pub id: TokenId,
    /// What was asked to be seen of the logits behind it.
    pub observed: Option<Observed>,
}

/// One thing that the log says. Those of one append stand or fall together.
#[derive(Clone, Debug, PartialEq)]
pub enum Logged {
    /// The request: first of all, once.
    Accepted(Accepted),
    /// A door owns it from here on.
    Owned {
        /// Which door.
        door: ReplicaId,
        /// The job that it took for it: a request has one, and where it was pushed twice the other is dropped.
        job: u64,
        /// How often that job had been taken by then: of two owners the one with more is the later.
        delivery: u32,
    },
    /// It runs with nothing else beside it from here on: if its owner dies now, it is what it died of.
    Alone,
    /// Its owner let go of it, alive and well. Its job stays the one that counts.
    Released,
    /// Its job was lost, or it is to be tried anew: whatever job is taken for it next counts.
    Requeued,
    /// It runs: the prompt has so many tokens.
    Began {
        /// Tokens of the prompt.
        prompt_tokens: u32,
    },
    /// Tokens of the answer, from this one on (0: the first).
    Tokens {
        /// The place of the first in the answer.
        from: u32,
        /// They.
        tokens: Vec<LoggedToken>,
    },
    /// The answer that is tensors.
    Answer(Tensors),
    /// Somebody who may wants it no more.
    Cancelled,
    /// It ended.
    Ended {
        /// How.
        outcome: Result<FinishReason, Fault>,
        /// When.
        at: Wall,
        /// How many owners died with it.
        deaths: u32,
    },
    /// Who is to be told has been told, or never will be and why; nothing is left to do.
    Delivered {
        /// Why it was given up, if it was.
        given_up: Option<String>,
    },
}

/// What a log comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Life {
    /// Position of its last record; 0 while there is none.
    pub last: u64,
    /// The request.
    pub accepted: Option<Accepted>,
    /// Its job, once it was owned: always the same, or whoever has looked a while ago might drop the one that counts.
    pub job: Option<u64>,
    /// Who owns it, and by which taking of the job.
    pub owner: Option<(ReplicaId, u32)>,
    /// The latest taking of the job that was ever owned.
    pub delivery: u32,
    /// How often in a row an owner was followed by another without having let go: owners that got on with the answer begin the count
    /// anew, since what ends its owners ends them where the one before ended.
    pub deaths: u32,
    /// Tokens of the prompt, once it has run.
    pub prompt_tokens: Option<u32>,
    /// Whether it runs alone.
    alone: bool,
    /// Whether an owner has died with it alone, before it got on.
    pub died_alone: bool,
    /// Tokens that were there when it was owned last.
    owned_at: usize,
    /// The answer's tokens.
    pub tokens: Vec<LoggedToken>,
    /// The answer, where it is tensors.
    pub answer: Option<Tensors>,
    /// Whether it was queued again, and nobody has owned it since.
    pub queued_again: bool,
    /// Whether it is wanted no more.
    pub cancelled: bool,
    /// How it ended, and when.
    pub ended: Option<(Result<FinishReason, Fault>, Wall)>,
    /// Whether nothing is left to do, and why its end could not be told.
    pub delivered: Option<Option<String>>,
}

impl Life {
    /// Of these records, in order.
    pub fn of<'a>(records: impl IntoIterator<Item = (u64, &'a [Logged])>) -> Self {
        let mut life = Self::default();
        records.into_iter().for_each(|(position, record)| life.take(position, record));
        life
    }

    /// Takes the next record in.
    pub fn take(&mut self, position: u64, record: &[Logged]) {
        self.last = position;
        record.iter().for_each(|logged| self.fold(logged));
    }

    fn fold(&mut self, logged: &Logged) {
        match logged {
            // A last record tells all of it anew.
            Logged::Accepted(accepted) => {
                *self = Self { last: self.last, accepted: Some(accepted.clone()), ..Self::default() };
            }
            Logged::Owned { door, job, delivery } => {
                if self.owner.is_some() && self.ended.is_none() {
                    let got_on = self.tokens.len() > self.owned_at;
                    self.deaths = if got_on { 1 } else { self.deaths + 1 };
                    self.died_alone = !got_on && (self.died_alone || self.alone);
                }
                (self.alone, self.queued_again) = (false, false);
                self.owned_at = self.tokens.len();
                self.job.get_or_insert(*job);
                self.delivery = self.delivery.max(*delivery);
                self.owner = Some((door.clone(), *delivery));
            }
            Logged::Alone => self.alone = true,
            Logged::Released => (self.owner, self.alone) = (None, false),
            Logged::Requeued => (self.job, self.delivery, self.queued_again) = (None, 0, true),
            Logged::Began { prompt_tokens } => self.prompt_tokens = Some(*prompt_tokens),
            // What was there already is not there twice, whoever wrote it.
            Logged::Tokens { from, tokens } => {
                let known = self.tokens.len().saturating_sub(*from as usize);
                if (*from as usize) <= self.tokens.len() {
                    self.tokens.extend(tokens.iter().skip(known).cloned());
                }
            }
            Logged::Answer(tensors) => self.answer = Some(tensors.clone()),
            Logged::Cancelled => self.cancelled = true,
            Logged::Ended { outcome, at, deaths } => {
                if self.ended.is_none() {
                    self.ended = Some((outcome.clone(), *at));
                    self.deaths = *deaths;
                }
            }
            Logged::Delivered { given_up } => {
                self.delivered.get_or_insert(given_up.clone());
            }
        }
    }

    /// The one record that tells all of it, once nothing is left to do.
    pub fn whole(&self, given_up: Option<String>) -> Vec<Logged> {
        let accepted = self.accepted.clone().map(Logged::Accepted);
        let began = self.prompt_tokens.map(|prompt_tokens| Logged::Began { prompt_tokens });
        let tokens = Logged::Tokens { from: 0, tokens: self.tokens.clone() };
        let tokens = (!self.tokens.is_empty()).then_some(tokens);
        let answer = self.answer.clone().map(Logged::Answer);
        let cancelled = self.cancelled.then_some(Logged::Cancelled);
        let deaths = self.deaths;
        let ended = self.ended.clone().map(|(outcome, at)| Logged::Ended { outcome, at, deaths });
        let all = [accepted, began, tokens, answer, cancelled, ended, Some(Logged::Delivered { given_up })];
        all.into_iter().flatten().collect()
    }
}
