//! What arrives at a stage: Opens, rows and Closes.

use super::{Action, Held, StageMachine};
use crate::batcher::Queued;
use crate::link::{ItemKind, LinkReceiver, Receipt, Room};
use crate::message::{Body, Cause, FrameContent, LinkMail, Report, Segment, rows_of};
use crate::out_link::{OutLink, item};
use crate::planted::Planted;
use crate::refusal::Refusal;
use crate::{Opening, Ticket};
use stageline_base::{Attempt, Fault, FaultClass, ReplicaId, SequenceId, Tensors, Tick};
use std::sync::Arc;

impl StageMachine {
    pub(super) fn on_link(
        &mut self,
        now: Tick,
        from: ReplicaId,
        mail: LinkMail,
        ticket: Ticket,
        out: &mut Vec<Action>,
    ) {
        let payload = match &mail {
            LinkMail::Frame { content: FrameContent::Rows { segments, payload }, .. } => {
                Some(self.room_of(segments, payload))
            }
            _ => None,
        };
        if !self.hears(&from, &mail) {
            out.extend(payload.map(|_| Action::Release(ticket)));
            return;
        }
        let link = self
            .upstream
            .entry(from.clone())
            .or_insert_with(|| LinkReceiver::new(self.setup.window).with_planted(self.setup.planted));
        match (link.on_mail(&mail, payload.unwrap_or_default()), mail) {
            (Receipt::Take, LinkMail::Frame { content, .. }) => {
                self.unsaid.insert(from.clone());
                self.take(now, from, content, ticket, out);
                return;
            }
            (Receipt::Answer(reply), _) => {
                let stage = self.setup.stage.saturating_sub(1);
                out.push(Action::Send { stage, to: from, body: Body::Reply(reply) });
            }
            _ => {}
        }
        if payload.is_some() {
            out.push(Action::Release(ticket));
        }
    }

    /// What a payload takes of the window; one that is not what crosses here takes more than there is, and so breaks the link.
    fn room_of(&self, segments: &[Segment], payload: &Tensors) -> Room {
        let takes = &self.setup.takes;
        let rows = rows_of(segments);
        let alone = segments.len() == 1 || takes.is_by_rows();
        let admitted = alone && takes.admits(rows, payload);
        if admitted { Room::of(rows, takes) } else { Room { rows: u64::MAX, bytes: u64::MAX } }
    }

    fn take(&mut self, now: Tick, from: ReplicaId, content: FrameContent, ticket: Ticket, out: &mut Vec<Action>) {
        match content {
            FrameContent::Open(opening) => {
                if self.may_open(now, &from, &opening) {
                    self.open(now, opening, out);
                }
            }
            FrameContent::Close { sequence, attempt } => {
                if !self.may_close(&from, sequence, attempt) {
                    return;
                }
                self.pass_close_on(now, sequence, attempt, out);
                self.close(now, sequence, attempt, out);
            }
            FrameContent::Rows { segments, payload } => {
                self.tickets.insert(ticket, rows_of(&segments) as u32);
                let mut ticket_row = 0;
                for segment in segments {
                    let held = self.sequences.get(&segment.sequence);
                    let rows = Queued {
                        sequence: segment.sequence,
                        attempt: segment.attempt,
                        start: segment.start,
                        rows: segment.rows,
                        emit: segment.emit,
                        decode: held.is_some_and(|held| held.opening.is_decode(segment.start)),
                        whole: held.is_some_and(|held| held.opening.work.is_whole()),
                        ticket,
                        ticket_row,
                        from: from.clone(),
                        credited: false,
                        arrived: now,
                    };
                    let ids_are_known = self.knows_ids(&payload, ticket_row, segment.rows);
                    ticket_row += segment.rows;
                    if self.admit(now, &from, &segment, ids_are_known) {
                        self.queue.push(rows)
                    } else {
                        self.discard(rows, out)
                    }
                }
            }
        }
    }

    /// Whether the rows are what the model can embed, where they are ids.
    fn knows_ids(&self, payload: &Tensors, from: u32, rows: u32) -> bool {
        if !self.setup.takes.is_tokens() || self.setup.planted == Planted::TakeAnyId {
            return true;
        }
        let mut ids = payload.iter().flat_map(|ids| ids.tensor.words().skip(from as usize).take(rows as usize));
        ids.all(|id| id < self.setup.vocab)
    }

    /// Whether the segment's rows are the ones that come next; tells the door if they cannot.
    fn admit(&mut self, now: Tick, from: &ReplicaId, segment: &Segment, ids_are_known: bool) -> bool {
        let stage = self.setup.stage;
        let closed = self.tombstones.holds(segment.sequence, segment.attempt);
        let foreign = match self.sequences.get(&segment.sequence) {
            Some(held) if held.opening.attempt >= segment.attempt => !self.comes_from(from, &held.opening),
            _ => segment.sequence.boot != segment.door.boot(),
        };
        if foreign && self.setup.planted != Planted::TakeAnyRows {
            self.refuse(Refusal::Foreign);
            return false;
        }
        let (cause, what) = match self.sequences.get_mut(&segment.sequence) {
            _ if closed => return false,
            Some(held) if segment.attempt < held.opening.attempt => return false,
            Some(held) if segment.attempt == held.opening.attempt => {
                if held.failed || segment.start < held.next {
                    return false;
                }
                let end = segment.start.checked_add(segment.rows);
                let gap = segment.start > held.next && self.setup.planted != Planted::IgnoreGap;
                if !ids_are_known {
                    held.failed = true;
                    self.counts.refused[Refusal::Token as usize] += 1;
                    let fault = Fault::invalid("rows hold a token that the model has not").at_stage(stage);
                    let (sequence, attempt, cause) = (segment.sequence, segment.attempt, Cause::Device);
                    self.report(&segment.door, Report::Failed { sequence, attempt, cause, stage, fault });
                    return false;
                }
                if !gap && end.is_some_and(|end| end <= held.opening.capacity_tokens) {
                    held.next = segment.start + segment.rows;
                    held.decoding |= segment.emit && held.opening.work.is_loop();
                    held.touched = now;
                    return true;
                }
                held.failed = true;
                (Cause::Gap, format!("rows from position {} came where {} was due", segment.start, held.next))
            }
            _ => (Cause::Unknown, "rows came for a sequence that is not open here".to_owned()),
        };
        let fault = Fault::new(FaultClass::Unavailable, what).at_stage(stage);
        let report = Report::Failed { sequence: segment.sequence, attempt: segment.attempt, cause, stage, fault };
        self.report(&segment.door, report);
        false
    }

    pub(super) fn open(&mut self, now: Tick, opening: Arc<Opening>, out: &mut Vec<Action>) {
        let (sequence, attempt) = (opening.sequence, opening.attempt);
        let closed = self.tombstones.holds(sequence, attempt);
        let known = self.sequences.get(&sequence).map(|held| held.opening.attempt);
        if closed || known.is_some_and(|held| held >= attempt) {
            return;
        }
        if let Some(lower) = known {
            self.drop_sequence(sequence, lower, out);
        }
        let blocks = match self.reserve(&opening) {
            Ok(blocks) => blocks,
            Err(fault) => {
                let report = Report::Refused { sequence, attempt, fault: fault.at_stage(self.setup.stage) };
                self.report(&opening.door, report);
                return;
            }
        };
        let held = Held {
            opening: opening.clone(),
            blocks: blocks.into(),
            next: 0,
            busy: 0,
            retrying: 0,
            failed: false,
            decoding: false,
            generated: Vec::new(),
            touched: now,
        };
        self.sequences.insert(sequence, held);
        if self.is_last() {
            self.report(&opening.door, Report::Opened { sequence, attempt });
            return;
        }
        let next = opening.path[usize::from(self.setup.stage) + 1].clone();
        self.downstream.entry(next.clone()).or_insert_with(|| OutLink::new(now, self.new_epoch, self.setup.planted));
        let item = item(sequence, attempt, &opening.door, ItemKind::Open);
        self.with_link(now, &next, out, |link, news| link.send_control(now, item, FrameContent::Open(opening), news));
    }

    /// The blocks that the sequence needs, all or nothing.
    fn reserve(&mut self, opening: &Opening) -> Result<Vec<u32>, Fault> {
        let here = usize::from(self.setup.stage);
        if opening.path.len() != usize::from(self.setup.stages) || opening.path.get(here) != Some(&self.setup.me) {
            return Err(Fault::internal(
                "the Open's path does not lead through this replica: is the pipeline's manifest the same everywhere?",
            ));
        }
        if self.draining && opening.door != self.setup.me {
            return Err(Fault::new(
                FaultClass::Overloaded,
                "this replica is shutting down: another one serves the stage soon",
            ));
        }
        let vocab = self.setup.vocab;
        if opening.known.iter().any(|id| *id >= vocab) && self.setup.planted != Planted::TakeAnyId {
            self.refuse(Refusal::Token);
            return Err(Fault::invalid(format!("the Open holds a token that the model of {vocab} tokens has not")));
        }
        if opening.work.cached && !self.kv.could_ever_hold(opening.capacity_tokens) {
            return Err(Fault::invalid(format!(
                "{} positions need {} KV blocks and the stage has {}: shorten the prompt, lower max_tokens, or serve \
                 with more --kv-blocks",
                opening.capacity_tokens,
                self.kv.needed(opening.capacity_tokens),
                self.kv.total()
            )));
        }
        if self.sequences.len() >= self.setup.max_num_seqs as usize {
            return Err(Fault::new(FaultClass::Overloaded, "the stage holds max_num_seqs sequences: try again later"));
        }
        if !opening.work.cached {
            return Ok(Vec::new());
        }
        let blocks = self.kv.take(opening.capacity_tokens);
        blocks.ok_or_else(|| Fault::new(FaultClass::Overloaded, "too few KV blocks are free: try again later"))
    }

    pub(super) fn pass_close_on(&mut self, now: Tick, sequence: SequenceId, attempt: Attempt, out: &mut Vec<Action>) {
        let held = self.sequences.get(&sequence).filter(|held| held.opening.attempt <= attempt);
        let Some(held) = held.filter(|_| !self.is_last() && self.setup.planted != Planted::StopClose) else { return };
        let next = held.opening.path[usize::from(self.setup.stage) + 1].clone();
        let item = item(sequence, attempt, &held.opening.door, ItemKind::Close);
        if !self.downstream.contains_key(&next) {
            // Its door closes past the links what no link carries a Close to.
            return self.report_lost(vec![item]);
        }
        self.with_link(now, &next, out, |link, news| {
            link.send_control(now, item, FrameContent::Close { sequence, attempt }, news);
        });
    }

    /// Ends a sequence's attempts up to `attempt`, known or not, and remembers that for one lease.
    pub(super) fn close(&mut self, now: Tick, sequence: SequenceId, attempt: Attempt, out: &mut Vec<Action>) {
        if self.setup.planted == Planted::ForgetTombstone {
            return self.drop_sequence(sequence, attempt, out);
        }
        self.tombstones.add(now, sequence, attempt);
        self.early.retain(|(_, opening)| opening.sequence != sequence || opening.attempt > attempt);
        self.drop_sequence(sequence, attempt, out);
    }

    fn drop_sequence(&mut self, sequence: SequenceId, attempt: Attempt, out: &mut Vec<Action>) {
        if self.sequences.get(&sequence).is_none_or(|held| held.opening.attempt > attempt) {
            return;
        }
        let Some(held) = self.sequences.remove(&sequence) else { return };
        for rows in self.queue.purge(sequence, attempt) {
            self.discard(rows, out);
        }
        if held.busy == 0 || self.setup.planted == Planted::FreeWhileBusy {
            self.kv.give_back(&held.blocks);
        } else {
            self.lingering.insert((sequence, held.opening.attempt), (held.busy, held.blocks));
        }
    }

    /// The rows will not run.
    pub(super) fn discard(&mut self, mut rows: Queued, out: &mut Vec<Action>) {
        if self.setup.planted != Planted::KeepCredit {
            self.give_credit_back(&mut rows);
        }
        self.settle_ticket(rows.ticket, rows.rows, out);
    }

    /// The rows leave the queue. A row that runs again after a failed batch has given its credit back before.
    pub(super) fn give_credit_back(&mut self, rows: &mut Queued) {
        if rows.credited {
            return;
        }
        rows.credited = true;
        if let Some(link) = self.upstream.get_mut(&rows.from) {
            link.give_back(Room::of(rows.rows, &self.setup.takes));
            self.unsaid.insert(rows.from.clone());
        }
    }

    /// `rows` of a payload are not needed any more.
    pub(super) fn settle_ticket(&mut self, ticket: Ticket, rows: u32, out: &mut Vec<Action>) {
        if let Some(left) = self.tickets.get_mut(&ticket) {
            *left = left.saturating_sub(rows);
            if *left == 0 {
                self.tickets.remove(&ticket);
                out.push(Action::Release(ticket));
            }
        }
    }
}
