//! Rows from the door into stage 0.

use super::{DoorAction, DoorMachine, Phase};
use crate::link::{Item, ItemKind, Room};
use crate::message::{Body, FrameContent, LinkMail, Segment};
use stageline_base::{HostTensor, SequenceId, Tick};

impl DoorMachine {
    /// Sends what is due and has credit: each group that leaves as one frame, then prompts.
    pub(super) fn send_rows(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        for sequence in self.groups.release(now).into_iter().flatten().rev() {
            if let Some(live) = self.live.get(&sequence) {
                self.unsent.push_front((sequence, live.attempt));
            }
        }
        let mut credit = self.link.credit();
        let mut segments = Vec::new();
        let mut items = Vec::new();
        let mut ids = Vec::new();
        while let Some((sequence, attempt)) = self.unsent.front().copied() {
            let Some(live) = self.live.get_mut(&sequence) else {
                self.unsent.pop_front();
                continue;
            };
            if live.attempt != attempt || live.phase != Phase::Running {
                self.unsent.pop_front();
                continue;
            }
            let Some((start, sent, last)) = live.progress.send(credit, self.setup.row_bytes) else { break };
            ids.extend_from_slice(sent);
            let rows = sent.len() as u32;
            credit = credit.less(Room::of(rows, self.setup.row_bytes));
            let door = self.setup.me.clone();
            items.push(Item { sequence, attempt, door: door.clone(), kind: ItemKind::Rows(start) });
            segments.push(Segment { sequence, attempt, door, start, rows, emit: last });
            if last {
                self.unsent.pop_front();
            }
        }
        if segments.is_empty() {
            return;
        }
        let room = Room::of(ids.len() as u64, self.setup.row_bytes);
        if let Some((epoch, number)) = self.link.number_rows(now, items, room) {
            let content = FrameContent::Rows { segments, payload: HostTensor::tokens(&ids) };
            let body = Body::Link(LinkMail::Frame { epoch, number, content });
            out.push(DoorAction::Send { stage: 0, to: self.setup.me.clone(), body });
        }
    }

    /// Forgets the rows that wait for their group or for credit.
    pub(super) fn forget_rows(&mut self, sequence: SequenceId) {
        self.groups.leave(sequence);
        self.unsent.retain(|(other, _)| *other != sequence);
    }
}
