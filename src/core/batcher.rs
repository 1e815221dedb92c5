//! The queue of a stage, and which of its rows run next.

use crate::Ticket;
use stageline_base::{Attempt, Position, ReplicaId, SequenceId, Tick};
use std::collections::{HashSet, VecDeque};

/// Rows that wait for the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Whose rows.
    pub sequence: SequenceId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Position of the first row.
    pub start: Position,
    /// How many, at least 1.
    pub rows: u32,
    /// Whether the last of them emits.
    pub emit: bool,
    /// Whether it is a step of an answer in progress: one row past all that was known when the sequence was opened. The
    /// last row of a prompt is not one, though it emits too: it must not overtake the prompt's other rows.
    pub decode: bool,
    /// Whether they must run together (an encoder's sequence).
    pub whole: bool,
    /// The payload that holds them.
    pub ticket: Ticket,
    /// Where in it they begin.
    pub ticket_row: u32,
    /// Who sent them, and gets the credit back.
    pub from: ReplicaId,
    /// Whether they have given it back already.
    pub credited: bool,
    /// When they arrived.
    pub arrived: Tick,
}

impl Queued {
    /// Cuts off and returns the first `rows`; what stays keeps the emission.
    fn split_front(&mut self, rows: u32) -> Queued {
        let front = Queued { rows, emit: false, ..self.clone() };
        self.start += rows;
        self.ticket_row += rows;
        self.rows -= rows;
        front
    }
}

/// Bounds of one microbatch.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most decode rows.
    pub decode_rows: usize,
    /// Most rows of both phases; prefill always gets at least one, so that decode cannot starve it.
    pub batch_tokens: u32,
}

/// Rows in the order they run: decode rows first, then prefill in order of arrival.
#[derive(Debug, Default)]
pub struct Batcher {
    solo: VecDeque<Queued>,
    decode: VecDeque<Queued>,
    prefill: VecDeque<Queued>,
}

impl Batcher {
    /// Adds rows behind all others of their phase.
    pub fn push(&mut self, rows: Queued) {
        if rows.decode { self.decode.push_back(rows) } else { self.prefill.push_back(rows) }
    }

    /// Adds rows of a failed batch: they run before all others, each member alone.
    pub fn push_solo(&mut self, rows: Queued) {
        self.solo.push_back(rows);
    }

    /// The next member that must run alone, left in its place.
    pub fn peek_solo(&self) -> Option<&Queued> {
        self.solo.front()
    }

    /// The next member that must run alone.
    pub fn pop_solo(&mut self) -> Option<Queued> {
        self.solo.pop_front()
    }

    /// Decode rows that wait.
    pub fn decode_len(&self) -> usize {
        self.decode.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.solo.is_empty() && self.decode.is_empty() && self.prefill.is_empty()
    }

    /// Rows that wait, of all phases.
    pub fn rows(&self) -> u64 {
        self.all().map(|q| u64::from(q.rows)).sum()
    }

    /// When the longest-waiting rows arrived.
    pub fn oldest(&self) -> Option<Tick> {
        [self.decode.front(), self.prefill.front()].into_iter().flatten().map(|q| q.arrived).min()
    }

    /// Removes the rows of a sequence's attempts up to `attempt`.
    pub fn purge(&mut self, sequence: SequenceId, attempt: Attempt) -> Vec<Queued> {
        let mut gone = Vec::new();
        for queue in [&mut self.solo, &mut self.decode, &mut self.prefill] {
            if queue.iter().any(|q| q.sequence == sequence && q.attempt <= attempt) {
                let (out, stay): (VecDeque<_>, VecDeque<_>) =
                    queue.drain(..).partition(|q| q.sequence == sequence && q.attempt <= attempt);
                gone.extend(out);
                *queue = stay;
            }
        }
        gone
    }

    /// Takes the next microbatch. `grant(rows, want)` says how many of the first `want` rows may run now (credit,
    /// retries) and takes note of them; rows of a sequence never overtake each other.
    pub fn form(&mut self, bounds: Bounds, mut grant: impl FnMut(&Queued, u32) -> u32) -> Vec<Queued> {
        let mut batch = Vec::new();
        let mut passed_over = VecDeque::new();
        while batch.len() < bounds.decode_rows
            && let Some(row) = self.decode.pop_front()
        {
            if grant(&row, 1) == 1 { batch.push(row) } else { passed_over.push_back(row) }
        }
        passed_over.append(&mut self.decode);
        self.decode = passed_over;

        let mut budget = bounds.batch_tokens.saturating_sub(batch.len() as u32).max(1);
        let mut waiting: HashSet<SequenceId> = HashSet::new();
        let mut passed_over = VecDeque::new();
        let mut prefilled = false;
        while budget > 0
            && let Some(mut rows) = self.prefill.pop_front()
        {
            // An encoder's sequence longer than the budget runs alone: nothing shorter of it can.
            let fits = !rows.whole || rows.rows <= budget || !prefilled;
            let want = if rows.whole { rows.rows } else { rows.rows.min(budget) };
            let granted = if fits && !waiting.contains(&rows.sequence) { grant(&rows, want) } else { 0 };
            debug_assert!(granted <= want && (!rows.whole || granted == 0 || granted == want));
            budget = budget.saturating_sub(granted);
            prefilled |= granted > 0;
            if granted == rows.rows {
                batch.push(rows);
                continue;
            }
            if granted > 0 {
                batch.push(rows.split_front(granted));
            }
            waiting.insert(rows.sequence);
            passed_over.push_back(rows);
        }
        passed_over.append(&mut self.prefill);
        self.prefill = passed_over;
        batch
    }

    fn all(&self) -> impl Iterator<Item = &Queued> {
        self.solo.iter().chain(&self.decode).chain(&self.prefill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(counter: u64, start: u32, rows: u32, emit: bool) -> Queued {
        Queued {
            sequence: SequenceId { boot: 1, counter },
            attempt: 1,
            start,
            rows,
            emit,
            decode: start > 0 && rows == 1,
            whole: false,
            ticket: Ticket(counter),
            ticket_row: 0,
            from: ReplicaId::new("a", 1),
            credited: false,
            arrived: Tick(0),
        }
    }

    fn shape(batch: &[Queued]) -> Vec<(u64, u32, u32, bool)> {
        batch.iter().map(|q| (q.sequence.counter, q.start, q.rows, q.emit)).collect()
    }

    #[test]
    fn decode_comes_first_and_prefill_fills_the_rest_in_chunks() {
        let mut batcher = Batcher::default();
        batcher.push(rows(1, 0, 10, true));
        batcher.push(rows(2, 7, 1, true));
        batcher.push(rows(3, 0, 3, true));
        let bounds = Bounds { decode_rows: 8, batch_tokens: 8 };
        assert_eq!(shape(&batcher.form(bounds, |_, n| n)), [(2, 7, 1, true), (1, 0, 7, false)]);
        assert_eq!(shape(&batcher.form(bounds, |_, n| n)), [(1, 7, 3, true), (3, 0, 3, true)]);
        assert!(batcher.is_empty());
    }

    #[test]
    fn decode_does_not_starve_prefill() {
        let mut batcher = Batcher::default();
        batcher.push(rows(9, 0, 5, true));
        for counter in 1..=4 {
            batcher.push(rows(counter, 7, 1, true));
        }
        let batch = batcher.form(Bounds { decode_rows: 4, batch_tokens: 2 }, |_, n| n);
        assert_eq!(batch.len(), 5);
        assert_eq!(shape(&batch)[4], (9, 0, 1, false));
    }

    #[test]
    fn rows_without_a_grant_keep_their_place_and_their_order() {
        let mut batcher = Batcher::default();
        batcher.push(rows(1, 0, 4, false));
        batcher.push(rows(1, 4, 4, true));
        batcher.push(rows(2, 0, 2, true));
        let bounds = Bounds { decode_rows: 8, batch_tokens: 64 };
        let batch = batcher.form(bounds, |q, n| if q.sequence.counter == 1 { n.min(3) } else { n });
        assert_eq!(shape(&batch), [(1, 0, 3, false), (2, 0, 2, true)]);
        let batch = batcher.form(bounds, |_, n| n);
        assert_eq!(shape(&batch), [(1, 3, 1, false), (1, 4, 4, true)]);
    }

    #[test]
    fn an_encoder_sequence_is_never_cut() {
        let mut batcher = Batcher::default();
        for (counter, n) in [(1, 6), (2, 6), (3, 2)] {
            batcher.push(Queued { whole: true, ..rows(counter, 0, n, true) });
        }
        let bounds = Bounds { decode_rows: 8, batch_tokens: 8 };
        assert_eq!(shape(&batcher.form(bounds, |_, n| n)), [(1, 0, 6, true), (3, 0, 2, true)]);
        let bounds = Bounds { decode_rows: 8, batch_tokens: 4 };
        assert_eq!(shape(&batcher.form(bounds, |_, n| n)), [(2, 0, 6, true)]);
    }
}
