//! A run that has ended, once more: what was done stays.

use super::super::logged::{Ended, Phase};
use super::frame::{NodeState, Slot, SlotState, Work};
use super::{Spot, State};
use crate::definition::File;
use stageline_core::durable::Wall;
use std::collections::BTreeSet;

impl State {
    /// What failed, was not done or was taken back is to be done, and what stands behind it in the flow; with `from`, that node and what
    /// stands behind it, too.
    pub(super) fn tried_anew(&mut self, file: &File, from: Option<&str>, deadline: Wall) {
        let (Some(ended), Some(root)) = (&self.ended, self.roots[0]) else { return };
        if matches!(ended, Ended::Succeeded(_)) && from.is_none() {
            return;
        }
        let Some(graph) = self.graph(file, root) else { return };
        let undone = self.undoing.iter().filter(|(_, slot)| matches!(slot.state, SlotState::Done(_)));
        let undone: Vec<usize> = undone
            .filter_map(|(key, _)| match self.spot(file, key)? {
                Spot::Node { frame, node, .. } => Some(self.top(frame, node)),
                Spot::Undo(_) => None,
            })
            .collect();
        let mut whole: BTreeSet<usize> = undone.into_iter().chain(from.and_then(|id| graph.place_of(id))).collect();
        // Parents may stand behind their children in the file: until nothing more is found.
        loop {
            let known = whole.len();
            for (node, said) in graph.nodes.iter().enumerate() {
                if said.parents.iter().any(|parent| whole.contains(parent)) {
                    whole.insert(node);
                }
            }
            if whole.len() == known {
                break;
            }
        }
        for node in whole {
            let before = std::mem::replace(&mut self.frames[root].nodes[node], NodeState::Waiting);
            self.let_go(before.slots().filter_map(|(_, slot)| slot.inner));
        }
        (self.ended, self.delivered, self.failing, self.cancelled, self.output) = (None, None, None, None, None);
        (self.paused, self.roots, self.deaths) = (None, [Some(root), None, None], 0);
        (self.owner, self.job, self.delivery) = (None, None, 0);
        self.undoing.clear();
        self.timers.clear();
        self.awaiting.clear();
        self.work.clear();
        self.tries += 1;
        self.phase = Some(Phase::Main);
        if let Some(accepted) = &mut self.accepted {
            accepted.deadline = deadline;
        }
        self.mend(file, root);
        let undoable = std::mem::take(&mut self.undoable);
        let is_done = |key: &_| {
            let slot = self.spot(file, key).and_then(|spot| self.slot(&spot));
            slot.is_some_and(|slot| matches!(slot.state, SlotState::Done(_)))
        };
        self.undoable = undoable.into_iter().filter(is_done).collect();
    }

    /// Nothing in these frames counts any more: others are begun in their place.
    fn let_go(&mut self, frames: impl Iterator<Item = usize>) {
        for frame in frames {
            self.frames[frame].over = true;
        }
    }

    /// The node of the flow's own frame that a node of a frame is in.
    pub(in crate::run) fn top(&self, frame: usize, node: usize) -> usize {
        let (mut frame, mut node) = (frame, node);
        while let Some(up) = self.frames.get(frame).and_then(|frame| frame.up) {
            (frame, node) = (up.frame, up.node);
        }
        node
    }

    /// What is not done in a frame is as if it had not begun.
    fn mend(&mut self, file: &File, frame: usize) {
        let (mut inner, mut gone) = (Vec::new(), Vec::new());
        for state in &mut self.frames[frame].nodes {
            if state.is_settled() {
                continue;
            }
            match state {
                NodeState::One(slot) => match slot.inner {
                    Some(frame) => {
                        slot.state = SlotState::Inside(frame);
                        inner.push(frame);
                    }
                    None => *state = NodeState::Waiting,
                },
                NodeState::Each(fan) => {
                    for slot in fan.slots.iter_mut().filter(|slot| !matches!(slot.state, SlotState::Done(_))) {
                        gone.extend(slot.inner);
                        *slot = Slot::default();
                    }
                    (fan.next, fan.running, fan.failed) = (0, 0, 0);
                }
                NodeState::Waiting | NodeState::Skipped => {}
            }
        }
        self.let_go(gone.into_iter());
        for frame in inner {
            self.mend(file, frame);
        }
        let Some(graph) = self.graph(file, frame) else { return };
        self.frames[frame].over = false;
        self.frames[frame].left = self.frames[frame].nodes.iter().filter(|node| !node.is_settled()).count();
        if self.frames[frame].left == 0 {
            self.work.push_back(Work::Frame(frame));
        }
        for (node, said) in graph.nodes.iter().enumerate() {
            if self.is_ready(said, frame, node) || self.frames[frame].nodes[node].is_fanned() {
                self.work.push_back(Work::Node { frame, node });
            }
        }
    }
}
