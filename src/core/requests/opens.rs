//! Which requests are opened, and when: while nothing is missing and the pipeline may hold more.

use super::{DoorAction, DoorMachine, Live, Phase};
use crate::Opening;
use crate::link::ItemKind;
use crate::message::FrameContent;
use crate::out_link::item;
use stageline_base::{SequenceId, StageIndex, Tick};
use std::sync::Arc;

/// Replays that may be opening at once, so that a dead stage's return is not met by all of them together.
const REPLAYS_AT_ONCE: usize = 4;

impl DoorMachine {
    /// Opens waiting requests, replays first, while the pipeline may hold more.
    pub(super) fn open_what_fits(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        if self.missing().is_some() || self.hold_until.is_some_and(|until| now < until) {
            return;
        }
        self.hold_until = None;
        let mut replays: Vec<(Tick, SequenceId)> = self.backoffs().filter(|(until, _)| *until <= now).collect();
        // Who has waited longest goes first: those of low numbers alone would keep the others out for ever.
        replays.sort_unstable();
        for (_, sequence) in replays.into_iter().take(self.room_for_replays()) {
            self.open(now, sequence, out);
        }
        while self.has_room()
            && let Some(sequence) = self.waiting.pop_front()
        {
            self.open(now, sequence, out);
        }
    }

    /// When [`DoorMachine::open_what_fits`] can open something only because time has passed.
    pub(super) fn next_opening(&self) -> Option<Tick> {
        if self.missing().is_some() {
            return None;
        }
        let backoffs = self.backoffs().map(|(until, _)| until.max(self.hold_until.unwrap_or(until)));
        let replay = backoffs.min().filter(|_| self.room_for_replays() > 0);
        let first = self.hold_until.filter(|_| self.has_room() && !self.waiting.is_empty());
        replay.into_iter().chain(first).min()
    }

    /// Requests that wait to be opened again, and until when.
    fn backoffs(&self) -> impl Iterator<Item = (Tick, SequenceId)> + '_ {
        self.live.iter().filter_map(|(sequence, live)| match live.phase {
            Phase::Backoff(until) if live.progress.may_begin() => Some((until, *sequence)),
            _ => None,
        })
    }

    fn room_for_replays(&self) -> usize {
        let opening = |live: &&Live| live.phase == Phase::Opening && live.attempt > 1;
        REPLAYS_AT_ONCE.saturating_sub(self.live.values().filter(opening).count())
    }

    fn has_room(&self) -> bool {
        self.crowd() < self.setup.max_num_seqs as usize
    }

    fn open(&mut self, now: Tick, sequence: SequenceId, out: &mut Vec<DoorAction>) {
        let Some(path) = self.choose_path(now) else { return };
        let rows = self.live.get(&sequence).map(|live| self.rows_until_first(live));
        let Some(live) = self.live.get_mut(&sequence) else { return };
        live.rows_ahead = rows;
        live.attempt += 1;
        live.phase = Phase::Opening;
        live.moved = now;
        live.progress.begin();
        live.used.extend(path.iter().enumerate().map(|(stage, replica)| (stage as StageIndex, replica.clone())));
        live.path = path.clone();
        let opening = Opening {
            sequence,
            attempt: live.attempt,
            door: self.setup.me.clone(),
            path,
            call_id: live.call_id.clone(),
            trace: live.trace,
            work: live.progress.work(),
            known: live.progress.known().to_vec(),
            capacity_tokens: live.progress.capacity_tokens(),
        };
        let item = item(sequence, live.attempt, &self.setup.me, ItemKind::Open);
        let content = FrameContent::Open(Arc::new(opening));
        self.with_link(now, out, |link, news| link.send_control(now, item, content, news));
    }
}
