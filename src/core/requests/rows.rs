//! Rows from the door into stage 0.

use super::{DoorAction, DoorMachine, Phase};
use crate::link::{Item, ItemKind, Room};
use crate::message::{Body, FrameContent, LinkMail, Segment, rows_of};
use crate::progress::{Sent, SentRows};
use stageline_base::{SequenceId, Tensors, Tick};

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
            let Some(Sent { start, rows, last, what }) = live.progress.send(credit, &self.setup.takes) else { break };
            credit = credit.less(Room::of(rows, &self.setup.takes));
            let door = self.setup.me.clone();
            let item = Item { sequence, attempt, door: door.clone(), kind: ItemKind::Rows(start) };
            let segment = Segment { sequence, attempt, door, start, rows, emit: last };
            if last {
                self.unsent.pop_front();
            }
            match what {
                SentRows::Tokens(sent) => {
                    ids.extend_from_slice(sent);
                    items.push(item);
                    segments.push(segment);
                }
                // They may be of different extents, so each request's go in a frame of their own.
                SentRows::Tensors(tensors) => {
                    let tensors = tensors.clone();
                    self.send_frame(now, vec![item], vec![segment], tensors, out);
                }
            }
        }
        if !segments.is_empty() {
            let tokens = Tensors::tokens(&ids);
            self.send_frame(now, items, segments, tokens, out);
        }
    }

    /// Sends rows, if the link has credit for them.
    fn send_frame(
        &mut self,
        now: Tick,
        items: Vec<Item>,
        segments: Vec<Segment>,
        payload: Tensors,
        out: &mut Vec<DoorAction>,
    ) {
        if let Some((epoch, number)) =
            self.link.number_rows(now, items, Room::of(rows_of(&segments), &self.setup.takes))
        {
            let content = FrameContent::Rows { segments, payload };
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
