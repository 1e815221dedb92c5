//! What the stages report.

use super::{DoorAction, DoorMachine, FinishReason, Judged, Phase};
use crate::Emission;
use crate::message::{Body, Cause, Feedback, Report};
use crate::planted::Planted;
use crate::progress::Came;
use crate::refusal::Refusal;
use stageline_base::{Attempt, Fault, FaultClass, ReplicaId, SequenceId, StageIndex, Tick};
use std::time::Duration;

/// Replays caused by a request's own failed rows, without a new token, after which it ends.
const BLAMED_MOST: u32 = 3;
/// First wait before a replay; it doubles up to [`BACKOFF_MOST`].
const BACKOFF: Duration = Duration::from_millis(10);
/// Longest wait before a replay.
const BACKOFF_MOST: Duration = Duration::from_secs(1);
/// After a refusal for lack of room, the next try comes no later than about this.
const TRY_AGAIN: Duration = Duration::from_millis(50);

impl DoorMachine {
    /// Takes in what a stage says of requests that went to it, and acknowledges what no stranger says.
    pub(super) fn on_feedback(
        &mut self,
        now: Tick,
        from: ReplicaId,
        Feedback { stage, number, reports }: Feedback,
        out: &mut Vec<DoorAction>,
    ) {
        let lives = self.lives(stage, &from);
        let place = (stage, from);
        let believed = self.setup.planted == Planted::BelieveAnyone;
        if !(lives || place.1 == self.setup.me || self.went_to(&place) || believed) {
            self.counts.refused[Refusal::Report as usize] += reports.len() as u64;
            return;
        }
        for report in reports {
            if believed || self.may_report(&place, &report) {
                self.on_report(now, report, out);
            }
        }
        let (stage, to) = place;
        out.push(DoorAction::Send { stage, to, body: Body::FeedbackAck { number } });
    }

    /// Whether an attempt of a request that is remembered went there.
    fn went_to(&self, place: &(StageIndex, ReplicaId)) -> bool {
        self.live.values().any(|live| live.used.contains(place))
            || self.ended.iter().any(|ended| ended.used.contains(place))
    }

    /// Whether an attempt of the report's sequence went to the replica that says it, at that stage; only the last stage
    /// opens and emits. What is said of a request that has ended can only have it closed once more.
    fn may_report(&mut self, place: &(StageIndex, ReplicaId), report: &Report) -> bool {
        let (sequence, of_the_last) = match report {
            Report::Opened { sequence, .. } | Report::Emitted { sequence, .. } => (sequence, true),
            Report::Refused { sequence, .. } | Report::Failed { sequence, .. } => (sequence, false),
        };
        let Some(live) = self.live.get(sequence) else { return true };
        let may = live.used.contains(place) && (!of_the_last || usize::from(place.0) + 1 == live.path.len());
        self.counts.refused[Refusal::Report as usize] += u64::from(!may);
        may
    }

    /// What the last stage made can be no part of an answer: as if its device had failed at it.
    fn on_wrong_answer(
        &mut self,
        now: Tick,
        (sequence, attempt): (SequenceId, Attempt),
        words: String,
        out: &mut Vec<DoorAction>,
    ) {
        let (cause, stage) = (Cause::Device, self.replicas.len().saturating_sub(1) as StageIndex);
        let fault = Fault::device(words).at_stage(stage);
        self.on_report(now, Report::Failed { sequence, attempt, cause, stage, fault }, out);
    }

    pub(super) fn on_report(&mut self, now: Tick, report: Report, out: &mut Vec<DoorAction>) {
        match report {
            Report::Opened { sequence, attempt } => {
                let live = self.live.get_mut(&sequence);
                if let Some(live) = live.filter(|live| live.attempt == attempt && live.phase == Phase::Opening) {
                    live.phase = Phase::Running;
                    live.moved = now;
                    live.stuck_since = None;
                    for replica in &live.path {
                        self.suspects.remove(replica);
                    }
                    self.unsent.push_back((sequence, attempt));
                }
            }
            Report::Refused { sequence, attempt, fault } => self.on_refused(now, (sequence, attempt), fault, out),
            Report::Emitted { sequence, attempt, emission: Emission::Token { id, .. }, .. }
                if id >= self.setup.vocab && self.setup.planted != Planted::TakeAnyId =>
            {
                self.counts.refused[Refusal::Token as usize] += 1;
                let vocab = self.setup.vocab;
                let words =
                    format!("the last stage made token {id}, and the model has {vocab}: the attempt is given up");
                self.on_wrong_answer(now, (sequence, attempt), words, out);
            }
            Report::Emitted { sequence, attempt, position, emission } => {
                let is_other = |live: &super::Live| {
                    live.attempt == attempt
                        && live.progress.is_next(position)
                        && !live.progress.may_come(&emission, &self.setup.gives)
                };
                if self.live.get(&sequence).is_some_and(is_other) {
                    let words = "the last stage made an answer that is none of this model: the attempt is given up";
                    return self.on_wrong_answer(now, (sequence, attempt), words.into(), out);
                }
                let crowd = self.crowd();
                let live = self.live.get_mut(&sequence);
                let current = live.filter(|live| {
                    live.attempt == attempt
                        && (live.progress.is_next(position) || self.setup.planted == Planted::AcceptAnyPosition)
                });
                let Some(live) = current else {
                    self.counts.stale_tokens += 1;
                    return;
                };
                live.replays = 0;
                live.blamed = 0;
                live.trouble = None;
                let after = now.since(std::mem::replace(&mut live.moved, now));
                self.pace.token(after, crowd);
                if let Some(rows) = live.rows_ahead.take() {
                    self.pace.first_token(after, rows);
                    self.pace.waited(now, live);
                }
                match live.progress.emitted(emission) {
                    Came::Answer(tensors) => {
                        out.push(DoorAction::Answer { sequence, tensors });
                        self.end(now, sequence, Ok(FinishReason::Stop), out);
                    }
                    Came::Token(id, observed) => {
                        out.push(DoorAction::Token { sequence, position, id, observed });
                        if self.setup.planted == Planted::GoOnUnasked {
                            self.groups.ready(now, sequence);
                        }
                    }
                }
            }
            Report::Failed { sequence, attempt, cause, stage, fault } => {
                let own = cause == Cause::Device;
                if cause == Cause::Lost {
                    self.suspect(now, (sequence, attempt), stage);
                }
                let spent = self
                    .live
                    .get(&sequence)
                    .is_some_and(|live| live.attempt == attempt && own && live.blamed >= BLAMED_MOST);
                if spent {
                    self.end(now, sequence, Err(fault), out);
                } else {
                    self.fail_attempt(now, (sequence, attempt), fault, own, out);
                }
                self.close_after_all(now, sequence, out);
            }
        }
    }

    /// Ends the answers that end, and sends the others on.
    pub(super) fn on_judged(&mut self, now: Tick, judged: Vec<Judged>, out: &mut Vec<DoorAction>) {
        for Judged { sequence, position, end } in judged {
            let live = self.live.get_mut(&sequence).filter(|live| live.progress.asks_about(position));
            let Some(live) = live else { continue };
            match live.progress.judged(end) {
                Some(reason) => self.end(now, sequence, Ok(reason), out),
                None if live.phase == Phase::Running => self.groups.ready(now, sequence),
                // Its attempt has failed meanwhile: it goes on where it is opened again.
                None => {}
            }
        }
    }

    fn on_refused(
        &mut self,
        now: Tick,
        (sequence, attempt): (SequenceId, Attempt),
        fault: Fault,
        out: &mut Vec<DoorAction>,
    ) {
        let Some(live) = self.live.get_mut(&sequence) else { return };
        if live.attempt != attempt || live.phase != Phase::Opening {
            return;
        }
        if fault.class != FaultClass::Overloaded {
            return self.end(now, sequence, Err(fault), out);
        }
        self.counts.refusals += 1;
        // Its path answers.
        live.stuck_since = None;
        live.rows_ahead = None;
        self.hold_until = Some(now + TRY_AGAIN + self.jitter(TRY_AGAIN));
        let Some(live) = self.live.get_mut(&sequence) else { return };
        if live.progress.generated() > 0 || live.replays > 0 {
            live.phase = Phase::Backoff(now + TRY_AGAIN);
        } else {
            live.phase = Phase::Waiting;
            // It goes back to where it came from.
            self.queue(sequence);
        }
        self.close_on_link(now, sequence, attempt, out);
    }

    /// Ends an attempt and plans the next, once however many faults name it. What it holds is freed meanwhile: others
    /// could not be opened beside it, and would keep it from being opened again.
    pub(super) fn fail_attempt(
        &mut self,
        now: Tick,
        (sequence, attempt): (SequenceId, Attempt),
        fault: Fault,
        own: bool,
        out: &mut Vec<DoorAction>,
    ) {
        let Some(live) = self.live.get_mut(&sequence) else { return };
        if live.attempt != attempt || !matches!(live.phase, Phase::Opening | Phase::Running) {
            return;
        }
        let wait = BACKOFF.saturating_mul(1 << live.replays.min(10)).min(BACKOFF_MOST);
        live.replays += 1;
        // Not where it is opened again: a token of this attempt that was on its way may come before, and begins a new count.
        self.counts.replays += 1;
        live.blamed += u32::from(own);
        live.trouble = Some(fault);
        live.stuck_since.get_or_insert(now);
        live.estimate = None;
        live.rows_ahead = None;
        let until = now + wait + self.jitter(wait);
        if let Some(live) = self.live.get_mut(&sequence) {
            live.phase = Phase::Backoff(until);
            let used = live.used.clone();
            self.close_at(now, &used, (sequence, attempt), out);
        }
        self.forget_rows(sequence);
    }

    fn jitter(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.random.below(most.as_micros() as u64 + 1))
    }
}
