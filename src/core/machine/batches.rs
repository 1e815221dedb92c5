//! Microbatches: forming them, and what comes of them.

use super::{Action, DEVICE_DEPTH, Running, StageMachine};
use crate::batcher::{Bounds, Queued};
use crate::link::{Item, ItemKind, Room};
use crate::message::{Cause, Report, Segment};
use crate::planted::Planted;
use crate::{BatchId, Emission, Member, Microbatch, Opening};
use stageline_base::{Fault, ReplicaId, Tick};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What of a batch goes to one replica in one frame.
#[derive(Default)]
struct Outgoing {
    segments: Vec<Segment>,
    items: Vec<Item>,
    members: Vec<(usize, Range<u32>)>,
    rows: u64,
}

impl StageMachine {
    /// What opened the sequences whose rows the device has as `batch`, each once.
    pub fn openings_of(&self, batch: BatchId) -> Vec<&Opening> {
        let members = self.running.iter().filter(|running| running.batch == batch).flat_map(|running| &running.members);
        let mut openings: Vec<&Opening> = Vec::new();
        for member in members {
            if !openings.iter().any(|opening| opening.sequence == member.sequence) {
                openings.push(&member.opening);
            }
        }
        openings
    }

    /// Hands microbatches to the device while it takes them and there is something worth running.
    pub(super) fn run_what_is_due(&mut self, now: Tick, out: &mut Vec<Action>) {
        self.delay_until = None;
        let decoding = self.sequences.values().filter(|held| held.decoding).count();
        let share = decoding.div_ceil(self.setup.microbatches.max(1) as usize).max(1);
        while self.running.len() < DEVICE_DEPTH && !self.queue.is_empty() {
            let ahead = !self.running.is_empty();
            // Ahead of time only what no later arrival could improve: a whole microbatch of decode rows, or prefill
            // while nobody decodes. A part of a microbatch would stay apart from the rest of it for ever.
            if ahead && decoding > 0 && self.queue.decode_len() < share {
                break;
            }
            if self.waits_for_company(now, share) {
                break;
            }
            self.drop_stale_solos(out);
            let batch = match self.queue.peek_solo().cloned() {
                Some(rows) if self.has_credit_for(&rows) => self.queue.pop_solo().into_iter().collect(),
                Some(_) => Vec::new(),
                None => self.form(share),
            };
            if batch.is_empty() {
                break;
            }
            self.run(batch, out);
        }
    }

    /// Whether a batch that is not full should still wait; sets the timer if so.
    fn waits_for_company(&mut self, now: Tick, share: usize) -> bool {
        let full = self.queue.decode_len() >= share || self.queue.rows() >= u64::from(self.setup.max_batch_tokens);
        let Some(oldest) = self.queue.oldest().filter(|_| !full && !self.setup.max_batch_delay.is_zero()) else {
            return false;
        };
        let until = oldest + self.setup.max_batch_delay;
        self.delay_until = (until > now).then_some(until);
        self.delay_until.is_some()
    }

    /// Drops what waits to be run again of sequences that have failed since.
    fn drop_stale_solos(&mut self, out: &mut Vec<Action>) {
        while let Some(rows) = self.queue.peek_solo() {
            let Some(held) = self.sequences.get_mut(&rows.sequence).filter(|held| held.failed) else { return };
            held.retrying -= 1;
            if let Some(rows) = self.queue.pop_solo() {
                self.discard(rows, out);
            }
        }
    }

    fn has_credit_for(&self, rows: &Queued) -> bool {
        let next = self.sequences.get(&rows.sequence).and_then(|held| {
            let path = &held.opening.path;
            path.get(usize::from(self.setup.stage) + 1)
        });
        let room = Room::of(rows.rows, &self.setup.gives);
        next.is_none_or(|next| self.downstream.get(next).is_some_and(|link| link.credit().holds(room)))
    }

    fn form(&mut self, decode_rows: usize) -> Vec<Queued> {
        let Self { queue, sequences, downstream, setup, .. } = self;
        let last = setup.stage + 1 == setup.stages;
        let bounds = Bounds { decode_rows, batch_tokens: setup.max_batch_tokens };
        // Decode must never wait behind prefill for credit: prefill leaves this much of every link's.
        let decodes = setup.gives.is_by_rows();
        let kept = if decodes { Room::of(setup.max_num_seqs, &setup.gives) } else { Room::default() };
        let mut taken: BTreeMap<ReplicaId, Room> = BTreeMap::new();
        queue.form(bounds, |rows, want| {
            let Some(held) = sequences.get(&rows.sequence) else { return 0 };
            if held.retrying > 0 {
                return 0;
            }
            if last {
                return want;
            }
            let next = &held.opening.path[usize::from(setup.stage) + 1];
            let Some(link) = downstream.get(next) else { return 0 };
            let spoken_for = taken.entry(next.clone()).or_default();
            let mut credit = link.credit().less(*spoken_for);
            if !rows.decode {
                credit = credit.less(kept);
            }
            let granted = credit.grants(want.into(), &setup.gives, rows.whole);
            *spoken_for = spoken_for.plus(Room::of(granted, &setup.gives));
            granted as u32
        })
    }

    fn run(&mut self, batch: Vec<Queued>, out: &mut Vec<Action>) {
        self.next_batch += 1;
        let id = BatchId(self.next_batch);
        let last = self.is_last();
        let mut members = Vec::with_capacity(batch.len());
        let mut from = Vec::with_capacity(batch.len());
        let mut reserved: BTreeMap<ReplicaId, Room> = BTreeMap::new();
        let solo = batch.first().is_some_and(|rows| rows.credited);
        for mut rows in batch {
            self.give_credit_back(&mut rows);
            let Some(held) = self.sequences.get_mut(&rows.sequence) else { continue };
            held.busy += 1;
            if !last {
                let next = &held.opening.path[usize::from(self.setup.stage) + 1];
                let room = Room::of(rows.rows, &self.setup.gives);
                let sum = reserved.entry(next.clone()).or_default();
                *sum = sum.plus(room);
            }
            members.push(Member {
                sequence: rows.sequence,
                attempt: rows.attempt,
                start: rows.start,
                rows: rows.rows,
                emit: rows.emit,
                ticket: rows.ticket,
                ticket_row: rows.ticket_row,
                opening: held.opening.clone(),
                blocks: held.blocks.clone(),
                history: if last && rows.emit { history(held, rows.start + rows.rows) } else { None },
            });
            from.push(rows.from);
        }
        for (next, room) in &reserved {
            if let Some(link) = self.downstream.get_mut(next) {
                link.reserve(*room);
            }
        }
        let reserved = reserved.into_iter().collect();
        self.running.push_back(Running { batch: id, members: members.clone(), reserved, solo, from });
        out.push(Action::Run(Microbatch { id, members }));
    }

    pub(super) fn on_ran(
        &mut self,
        now: Tick,
        batch: BatchId,
        outcome: Result<Vec<Option<Emission>>, Fault>,
        out: &mut Vec<Action>,
    ) {
        let Some(index) = self.running.iter().position(|running| running.batch == batch) else { return };
        let Some(running) = self.running.remove(index) else { return };
        for (next, room) in &running.reserved {
            if let Some(link) = self.downstream.get_mut(next) {
                link.unreserve(*room);
            }
        }
        match outcome {
            Ok(emissions) => self.ran_well(now, running, emissions, out),
            Err(fault) => self.ran_badly(running, fault, out),
        }
        out.push(Action::Settled(batch));
    }

    fn ran_well(&mut self, now: Tick, running: Running, emissions: Vec<Option<Emission>>, out: &mut Vec<Action>) {
        self.counts.batches += 1;
        let mut emissions = emissions.into_iter();
        // By receiver, and where a request's tensors stay together by member too: a frame each.
        let mut outgoing: BTreeMap<(ReplicaId, usize), Outgoing> = BTreeMap::new();
        let together = self.setup.gives.is_by_rows();
        let mut row = 0;
        for (index, (member, from)) in running.members.into_iter().zip(running.from).enumerate() {
            let emission = emissions.next().flatten();
            let range = row..row + member.rows;
            row = range.end;
            self.counts.rows += u64::from(member.rows);
            self.counts.decode_rows += u64::from(member.is_decode());
            if !self.member_is_back(&member, running.solo) {
                self.settle_ticket(member.ticket, member.rows, out);
                continue;
            }
            let stage = usize::from(self.setup.stage);
            let Some(held) = self.sequences.get_mut(&member.sequence) else { continue };
            if held.retrying > 0 && !running.solo {
                // It ran on the KV of rows that failed before it: it must run again after them.
                held.retrying += 1;
                self.queue.push_solo(again(member, from));
                continue;
            }
            held.touched = now;
            if let Some(emission) = emission {
                let position = member.start + member.rows;
                if let Emission::Token { id, .. } = &emission {
                    held.generated.push(*id);
                }
                let (sequence, attempt) = (member.sequence, member.attempt);
                let report = Report::Emitted { sequence, attempt, position, emission };
                self.report(&member.opening.door, report);
            } else if let Some(next) = member.opening.path.get(stage + 1) {
                let outgoing = outgoing.entry((next.clone(), if together { 0 } else { index })).or_default();
                outgoing.rows += u64::from(member.rows);
                outgoing.members.push((index, range));
                outgoing.items.push(Item {
                    sequence: member.sequence,
                    attempt: member.attempt,
                    door: member.opening.door.clone(),
                    kind: ItemKind::Rows(member.start),
                });
                outgoing.segments.push(Segment {
                    sequence: member.sequence,
                    attempt: member.attempt,
                    door: member.opening.door.clone(),
                    start: member.start,
                    rows: member.rows,
                    emit: member.emit,
                });
            }
            self.settle_ticket(member.ticket, member.rows, out);
        }
        for ((to, _), outgoing) in outgoing {
            self.forward(now, running.batch, to, outgoing, out);
        }
    }

    fn forward(&mut self, now: Tick, batch: BatchId, to: ReplicaId, outgoing: Outgoing, out: &mut Vec<Action>) {
        let room = Room::of(outgoing.rows, &self.setup.gives);
        let numbered =
            self.downstream.get_mut(&to).and_then(|link| link.number_rows(now, outgoing.items.clone(), room));
        match numbered {
            Some((epoch, number)) => {
                let Outgoing { segments, members, .. } = outgoing;
                out.push(Action::Forward { to, epoch, number, segments, batch, members });
            }
            // The link's epoch ended while the batch ran, and with it the credit that was set aside.
            None => self.report_lost(outgoing.items),
        }
    }

    fn ran_badly(&mut self, running: Running, fault: Fault, out: &mut Vec<Action>) {
        self.counts.failed_batches += 1;
        for (member, from) in running.members.into_iter().zip(running.from) {
            if !self.member_is_back(&member, running.solo) || self.setup.planted == Planted::SwallowFailure {
                self.settle_ticket(member.ticket, member.rows, out);
                continue;
            }
            let Some(held) = self.sequences.get_mut(&member.sequence) else { continue };
            if running.solo {
                held.failed = true;
                let report = Report::Failed {
                    sequence: member.sequence,
                    attempt: member.attempt,
                    cause: Cause::Device,
                    stage: self.setup.stage,
                    fault: fault.clone().at_stage(self.setup.stage),
                };
                self.report(&member.opening.door, report);
                self.settle_ticket(member.ticket, member.rows, out);
            } else {
                held.retrying += 1;
                self.queue.push_solo(again(member, from));
            }
        }
    }

    /// Notes that a member is off the device; false if its sequence was closed, replaced or has failed meanwhile.
    fn member_is_back(&mut self, member: &Member, solo: bool) -> bool {
        let held = self.sequences.get_mut(&member.sequence).filter(|held| held.opening.attempt == member.attempt);
        if let Some(held) = held {
            held.busy = held.busy.saturating_sub(1);
            held.retrying -= u32::from(solo);
            return !held.failed;
        }
        let key = (member.sequence, member.attempt);
        if let Some((left, blocks)) = self.lingering.get_mut(&key) {
            *left -= 1;
            if *left == 0 {
                let blocks = blocks.clone();
                self.lingering.remove(&key);
                self.kv.give_back(&blocks);
            }
        }
        false
    }
}

/// All ids before `position`, if the repetition penalty needs them.
fn history(held: &super::Held, position: u32) -> Option<Arc<[u32]>> {
    held.opening.work.sampling.filter(|sampling| sampling.repetition_penalty != 1.0)?;
    let ids = held.opening.known.iter().chain(&held.generated).take(position as usize);
    Some(ids.copied().collect())
}

fn again(member: Member, from: ReplicaId) -> Queued {
    Queued {
        sequence: member.sequence,
        attempt: member.attempt,
        start: member.start,
        rows: member.rows,
        emit: member.emit,
        decode: member.is_decode(),
        whole: member.opening.work.is_whole(),
        ticket: member.ticket,
        ticket_row: member.ticket_row,
        from,
        credited: true,
        arrived: Tick(0),
    }
}
