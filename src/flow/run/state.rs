//! What a run's log comes to.
//!
//! A run is frames: one for the flow's own nodes, and one for each group, sub-flow and item of one that is begun. A frame has, for
//! each node of its graph, what that has come to; a node that calls, waits or holds a frame does so in a slot, of which one that is
//! done for items has one each.

mod anew;
mod fold;
mod frame;
mod key;

pub(super) use frame::{Frame, NodeState, Slot, SlotState, Work};
pub use key::Key;
pub(super) use key::Spot;

use super::datum::Datum;
use super::logged::{Accepted, Ended, Failure, Logged, Moment, Phase};
use crate::definition::{File, Flow, Graph};
use stageline_core::durable::Wall;
use std::collections::{BTreeSet, VecDeque};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Position of the log's last record; 0 while there is none.
    pub last: u64,
    /// The run.
    pub accepted: Option<Accepted>,
    /// Its job, once it was owned.
    pub job: Option<u64>,
    /// Who owns it, and by which taking of the job.
    pub owner: Option<(String, u32)>,
    /// The latest taking of the job that was ever owned.
    pub delivery: u32,
    /// How often in a row an owner was followed by another without having let go or got on.
    pub deaths: u32,
    /// In which part of its life it is.
    pub phase: Option<Phase>,
    /// It is to call nobody, since then.
    pub paused: Option<Wall>,
    /// Somebody wants it no more; whether what was done is to be taken back.
    pub cancelled: Option<bool>,
    /// What failed first, for good.
    pub failing: Option<Failure>,
    /// What the flow gives.
    pub output: Option<Datum>,
    /// How it ended.
    pub ended: Option<Ended>,
    /// Whether nothing is left to do, and why its end could not be told.
    pub delivered: Option<Option<String>>,
    /// How often it was tried anew: part of the ids of calls, which join those of before otherwise.
    pub tries: u32,
    /// All that was said of it, but who owned it.
    pub history: Vec<Moment>,
    pub(super) frames: Vec<Frame>,
    /// The frames of the flow, of `on_failure` and of `finally`, once they are begun.
    pub(super) roots: [Option<usize>; 3],
    /// What is taken back, in order; the calls of those.
    pub(super) undoing: Vec<(Key, Slot)>,
    /// What was done, in order, that can be taken back.
    undoable: Vec<Key>,
    /// What was said that no node has waited for yet.
    pub(super) signals: VecDeque<(String, Datum)>,
    /// Who waits for what to be said.
    pub(super) awaiting: Vec<(String, Key)>,
    /// When what is to be looked at; what has changed since is no more there.
    pub(super) timers: BTreeSet<(Wall, Key)>,
    /// What may have become possible.
    pub(super) work: VecDeque<Work>,
    got_on: bool,
    /// Its last owner let go of it.
    was_released: bool,
    /// Whether calls that are under way may count no more.
    pub(super) has_shrunk: bool,
}

/// The part of a phase's frame in [`State::roots`].
pub(super) fn root_of(phase: Phase) -> Option<usize> {
    match phase {
        Phase::Main => Some(0),
        Phase::Undoing => None,
        Phase::OnFailure => Some(1),
        Phase::Finally => Some(2),
    }
}

impl State {
    /// The flow that it is a run of.
    pub(super) fn flow<'f>(&self, file: &'f File) -> Option<&'f Flow> {
        file.flows.get(&self.accepted.as_ref()?.flow)
    }

    /// The node that a key is of.
    pub fn node_of<'f>(&self, file: &'f File, key: &Key) -> Option<&'f crate::definition::Node> {
        self.node(file, &self.spot(file, key)?)
    }

    /// The graph of a frame.
    pub(super) fn graph<'f>(&self, file: &'f File, frame: usize) -> Option<&'f Graph> {
        self.frames.get(frame)?.place.graph(file)
    }

    /// Takes the next record in.
    pub fn take(&mut self, file: &File, position: u64, record: &[Moment]) {
        self.last = position;
        for moment in record {
            for said in &moment.said {
                self.fold(file, moment.at, said);
            }
        }
        self.remember(record);
    }

    /// Keeps what a record says of the run itself.
    pub(super) fn remember(&mut self, record: &[Moment]) {
        for moment in record {
            let lasting = |said: &&Logged| !matches!(said, Logged::Owned { .. } | Logged::Released | Logged::Requeued);
            let said: Vec<Logged> = moment.said.iter().filter(lasting).cloned().collect();
            if !said.is_empty() {
                self.history.push(Moment { at: moment.at, said });
            }
        }
    }

    pub(super) fn has_undoable(&self) -> bool {
        !self.undoable.is_empty()
    }

    /// Whether what is in a frame still matters: nothing around it has failed or ended, and it is its phase's turn.
    pub(super) fn is_live(&self, frame: usize) -> bool {
        let mut at = frame;
        loop {
            let Some(Frame { over: false, up, .. }) = self.frames.get(at) else { return false };
            match up {
                Some(up) => at = up.frame,
                None => return self.phase.and_then(root_of).and_then(|root| self.roots[root]) == Some(at),
            }
        }
    }

    /// Whether nobody may be called in the flow's own nodes any more, though calls may still be under way.
    pub(super) fn is_stopping(&self) -> bool {
        self.phase == Some(Phase::Main) && (self.failing.is_some() || self.cancelled.is_some())
    }

    /// The slot of a key, where there is one.
    pub(super) fn slot(&self, spot: &Spot) -> Option<&Slot> {
        match spot {
            Spot::Undo(place) => self.undoing.get(*place).map(|(_, slot)| slot),
            Spot::Node { frame, node, item } => self.frames.get(*frame)?.nodes.get(*node)?.slot(*item),
        }
    }

    pub(super) fn slot_mut(&mut self, spot: &Spot) -> Option<&mut Slot> {
        match spot {
            Spot::Undo(place) => self.undoing.get_mut(*place).map(|(_, slot)| slot),
            Spot::Node { frame, node, item } => self.frames.get_mut(*frame)?.nodes.get_mut(*node)?.slot_mut(*item),
        }
    }

    /// Whether a call that this slot speaks of may be made, or still counts.
    pub(super) fn counts(&self, file: &File, spot: &Spot) -> bool {
        match spot {
            Spot::Undo(_) => self.phase == Some(Phase::Undoing),
            Spot::Node { frame, node, .. } => {
                self.is_live(*frame)
                    && (!self.is_stopping() || (self.cancelled.is_none() && self.is_async(file, *frame, *node)))
            }
        }
    }

    /// Whether a node is in one of the flow's own that only its end waits for.
    fn is_async(&self, file: &File, frame: usize, node: usize) -> bool {
        let graph = self.roots[0].and_then(|root| self.graph(file, root));
        graph.and_then(|graph| graph.nodes.get(self.top(frame, node))).is_some_and(|node| node.is_async)
    }

    /// The keys of the calls that the log says are under way and that still count, with how many-th each is.
    pub fn calls(&self, file: &File) -> Vec<(Key, u32)> {
        let mut calls = Vec::new();
        for (index, frame) in self.frames.iter().enumerate().filter(|(index, _)| self.is_live(*index)) {
            let Some(graph) = frame.place.graph(file) else { continue };
            for (place, (node, state)) in graph.nodes.iter().zip(&frame.nodes).enumerate() {
                for (item, slot) in state.slots() {
                    let spot = Spot::Node { frame: index, node: place, item };
                    if matches!(slot.state, SlotState::Called) && self.counts(file, &spot) {
                        calls.push((Key::of(&frame.prefix, &node.id, item), slot.attempt));
                    }
                }
            }
        }
        if self.phase == Some(Phase::Undoing) {
            let called = self.undoing.iter().filter(|(_, slot)| matches!(slot.state, SlotState::Called));
            calls.extend(called.map(|(key, slot)| (key.undo(), slot.attempt)));
        }
        calls
    }

    /// When it was accepted.
    pub fn began(&self) -> Option<Wall> {
        self.history.first().map(|moment| moment.at)
    }

    /// When it ended.
    pub fn ended_at(&self) -> Option<Wall> {
        let ends = |moment: &&Moment| moment.said.iter().any(|said| matches!(said, Logged::Ended(_)));
        self.history.iter().rev().find(ends).map(|moment| moment.at)
    }

    /// Whether somebody should have it in hand: it has not rested, or what it rested for was due so long before `now`.
    pub fn is_due(&self, now: Wall, grace: std::time::Duration) -> bool {
        let before = Wall(now.0.saturating_sub(grace.as_millis() as u64));
        let deadline = self.accepted.as_ref().map(|run| run.deadline);
        // The same times by which its owner let go of it.
        let rests_until = [deadline, self.next_due()].into_iter().flatten().min();
        !self.was_released || (self.paused.is_none() && rests_until.is_some_and(|until| until < before))
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Wall> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What a run's last record says: all of it.
    pub(super) fn whole(&self) -> Vec<Moment> {
        self.history.clone()
    }
}
