//! What each thing that the log says changes.

use super::super::logged::{Failure, FailureClass, Given, Logged, Order, Phase, With};
use super::frame::{Fan, Frame, NodeState, Place, Slot, SlotState, Up, Work};
use super::key::ROOTS;
use super::{Key, Spot, State, root_of};
use crate::definition::{Does, File, Node, Tolerate, Wait};
use stageline_core::durable::Wall;

impl State {
    pub(in crate::run) fn fold(&mut self, file: &File, at: Wall, said: &Logged) {
        match said {
            // A last record tells all of it anew.
            Logged::Accepted(accepted) => {
                *self = Self { last: self.last, accepted: Some((**accepted).clone()), ..Self::default() };
                self.enter(file, Phase::Main);
            }
            Logged::Owned { engine, job, delivery } => {
                if self.owner.is_some() && self.ended.is_none() {
                    self.deaths = if self.got_on { 1 } else { self.deaths + 1 };
                }
                (self.got_on, self.was_released) = (false, false);
                self.job.get_or_insert(*job);
                self.delivery = self.delivery.max(*delivery);
                self.owner = Some((engine.clone(), *delivery));
            }
            Logged::Released => (self.owner, self.was_released) = (None, true),
            Logged::Requeued => (self.job, self.delivery, self.was_released) = (None, 0, false),
            Logged::Ordered(order) => self.ordered(file, at, order),
            Logged::Skipped { key } => self.skipped(file, key),
            Logged::Fanned { key, items, count } => self.fanned(file, key, items, *count),
            Logged::Opened { key, input } => self.opened(file, key, input.as_ref()),
            Logged::Called { key, attempt, input, with } => {
                self.called(file, at, (key, *attempt), (input.as_ref(), with))
            }
            Logged::Waits { key, until } => self.waits(file, key, *until),
            Logged::Done { key, output } => self.done(file, key, output),
            Logged::Failed { key, failure, again, counts } => self.failed(file, (key, failure), *again, *counts),
            Logged::Output(datum) => self.output = Some(datum.clone()),
            Logged::Failing(failure) => {
                self.failing.get_or_insert_with(|| failure.clone());
                self.has_shrunk = true;
            }
            Logged::Entered(phase) => self.enter(file, *phase),
            Logged::Ended(ended) => drop(self.ended.get_or_insert_with(|| ended.clone())),
            Logged::Delivered { given_up } => drop(self.delivered.get_or_insert_with(|| given_up.clone())),
        }
    }

    fn enter(&mut self, file: &File, phase: Phase) {
        self.has_shrunk = true;
        self.phase = Some(phase);
        if phase == Phase::Undoing {
            self.undoing = self.undoable.iter().rev().map(|key| (key.clone(), Slot::default())).collect();
        }
        let (Some(root), Some(flow)) = (root_of(phase), self.accepted.as_ref().map(|accepted| accepted.flow.clone()))
        else {
            return;
        };
        if self.roots[root].is_none() {
            let place = Place::root(&flow, phase);
            self.roots[root] = self.open(file, place, ROOTS[root].into(), None);
        }
    }

    /// Begins the frame of the graph at `place`.
    fn open(&mut self, file: &File, place: Place, prefix: std::sync::Arc<str>, up: Option<Up>) -> Option<usize> {
        let graph = place.graph(file)?;
        let (frame, left) = (self.frames.len(), graph.nodes.len());
        let nodes = vec![NodeState::Waiting; left];
        self.frames.push(Frame {
            place,
            prefix,
            up,
            input: None,
            sees_out: false,
            nodes,
            left,
            over: false,
            failed: false,
        });
        let free = graph.nodes.iter().enumerate().filter(|(_, node)| node.parents.is_empty());
        self.work.extend(free.map(|(node, _)| Work::Node { frame, node }));
        if left == 0 {
            self.work.push_back(Work::Frame(frame));
        }
        Some(frame)
    }

    pub(in crate::run) fn node<'f>(&self, file: &'f File, spot: &Spot) -> Option<&'f Node> {
        match spot {
            Spot::Node { frame, node, .. } => self.graph(file, *frame)?.nodes.get(*node),
            Spot::Undo(place) => {
                let done = self.spot(file, &self.undoing.get(*place)?.0)?;
                if let Spot::Undo(_) = done { None } else { self.node(file, &done) }
            }
        }
    }

    /// The slot of a key, begun if it was not.
    fn begun(&mut self, file: &File, key: &Key) -> Option<(Spot, &mut Slot)> {
        let spot = self.spot(file, key)?;
        if let Spot::Node { frame, node, item } = spot {
            let state = self.frames.get_mut(frame)?.nodes.get_mut(node)?;
            match (&mut *state, item) {
                (NodeState::Waiting, None) => *state = NodeState::One(Slot::default()),
                (NodeState::Each(fan), Some(item)) => {
                    if matches!(fan.slots.get(item as usize)?.state, SlotState::Idle) {
                        fan.running += 1;
                    }
                }
                _ => {}
            }
        }
        self.slot_mut(&spot).map(|slot| (spot, slot))
    }

    fn skipped(&mut self, file: &File, key: &Key) {
        let Some(Spot::Node { frame, node, item: None }) = self.spot(file, key) else { return };
        if let NodeState::Waiting = self.frames[frame].nodes[node] {
            self.frames[frame].nodes[node] = NodeState::Skipped;
            self.settled(file, frame, node);
        }
    }

    fn fanned(&mut self, file: &File, key: &Key, items: &Given, count: u32) {
        let Some(spot @ Spot::Node { frame, node, item: None }) = self.spot(file, key) else { return };
        let Some(each) = self.node(file, &spot).and_then(|node| node.each.as_ref()) else { return };
        if let NodeState::Waiting = self.frames[frame].nodes[node] {
            let tolerated = match each.tolerate {
                Tolerate::Items(items) => items as usize,
                Tolerate::Percent(percent) => (f64::from(count) * percent / 100.0).floor() as usize,
            };
            let slots = vec![Slot::default(); count as usize];
            let fan = Fan { items: items.clone(), slots, next: 0, running: 0, done: 0, failed: 0, tolerated };
            self.frames[frame].nodes[node] = NodeState::Each(Box::new(fan));
            match count {
                0 => self.settled(file, frame, node),
                _ => self.work.push_back(Work::Node { frame, node }),
            }
        }
    }

    fn opened(&mut self, file: &File, key: &Key, input: Option<&Given>) {
        let Some((spot @ Spot::Node { frame, node, item }, slot)) = self.begun(file, key) else { return };
        if !matches!(slot.state, SlotState::Idle) {
            return;
        }
        slot.input = input.cloned();
        let Some(does) = self.node(file, &spot).map(|node| &node.does) else { return };
        let Some(place) = self.frames[frame].place.inside(node, does) else { return };
        let prefix = format!("{key}.").into();
        let Some(inner) = self.open(file, place, prefix, Some(Up { frame, node, item })) else { return };
        self.frames[inner].input = input.cloned();
        self.frames[inner].sees_out = matches!(does, Does::Group(_));
        if let Some(slot) = self.slot_mut(&spot) {
            (slot.state, slot.inner) = (SlotState::Inside(inner), Some(inner));
        }
    }

    fn called(&mut self, file: &File, at: Wall, (key, attempt): (&Key, u32), (input, with): (Option<&Given>, &With)) {
        let Some((_, slot)) = self.begun(file, key) else { return };
        if slot.is_settled() {
            return;
        }
        if let Some(input) = input {
            (slot.input, slot.with, slot.since) = (Some(input.clone()), with.clone(), at);
        }
        (slot.state, slot.attempt) = (SlotState::Called, attempt);
    }

    fn waits(&mut self, file: &File, key: &Key, until: Wall) {
        let Some((spot, slot)) = self.begun(file, key) else { return };
        slot.state = SlotState::Waits(until);
        self.timers.insert((until, key.clone()));
        if let Some(Does::Wait(Wait::Signal(name))) = self.node(file, &spot).map(|node| &node.does) {
            self.awaiting.push((name.clone(), key.clone()));
        }
    }

    fn done(&mut self, file: &File, key: &Key, output: &Given) {
        let Some((spot, slot)) = self.begun(file, key) else { return };
        if slot.is_settled() {
            return;
        }
        slot.state = SlotState::Done(output.clone());
        self.got_on = true;
        let Spot::Node { frame, node, item } = spot else { return };
        let said = self.node(file, &spot);
        if let Some(Does::Wait(Wait::Signal(name))) = said.map(|node| &node.does) {
            self.awaiting.retain(|(_, waiting)| waiting != key);
            if let Some(place) = self.signals.iter().position(|(said, _)| said == name) {
                self.signals.remove(place);
            }
        }
        if said.is_some_and(|node| node.undo.is_some()) {
            self.undoable.push(key.clone());
        }
        match (&mut self.frames[frame].nodes[node], item) {
            (NodeState::Each(fan), Some(_)) => {
                (fan.running, fan.done) = (fan.running.saturating_sub(1), fan.done + 1);
                self.item_settled(file, frame, node);
            }
            _ => self.settled(file, frame, node),
        }
    }

    fn item_settled(&mut self, file: &File, frame: usize, node: usize) {
        match &self.frames[frame].nodes[node] {
            NodeState::Each(fan) if fan.is_settled() => self.settled(file, frame, node),
            _ => self.work.push_back(Work::Node { frame, node }),
        }
    }

    fn failed(&mut self, file: &File, (key, failure): (&Key, &Failure), again: Option<Wall>, counts: bool) {
        let Some((spot, slot)) = self.begun(file, key) else { return };
        if slot.is_settled() {
            return;
        }
        if counts {
            slot.strikes += 1;
            slot.timeouts += u32::from(failure.class == FailureClass::Timeout);
        }
        if let Some(again) = again {
            slot.state = SlotState::Resting(again);
            self.timers.insert((again, key.clone()));
            return;
        }
        match spot {
            // What cannot be taken back stays; the others are.
            Spot::Undo(_) => slot.state = SlotState::Failed,
            Spot::Node { frame, node, item } => self.broke(file, (frame, node, item), failure),
        }
    }

    /// A slot failed for good.
    fn broke(&mut self, file: &File, (frame, node, item): (usize, usize, Option<u32>), failure: &Failure) {
        self.has_shrunk = true;
        let spot = Spot::Node { frame, node, item };
        let goes_on = self.node(file, &spot).is_some_and(|node| node.on_error.is_some());
        let was_broken = self.slot(&spot).is_some_and(|slot| matches!(slot.state, SlotState::Broken(_)));
        if let Some(slot) = self.slot_mut(&spot) {
            // What is said to go on with may fail, too.
            let goes_on = goes_on && !was_broken;
            slot.state = if goes_on { SlotState::Broken(failure.clone()) } else { SlotState::Failed };
            if goes_on {
                self.work.push_back(Work::Broken { frame, node, item });
                return;
            }
        }
        if let NodeState::Each(fan) = &mut self.frames[frame].nodes[node] {
            (fan.running, fan.failed) = (fan.running.saturating_sub(1), fan.failed + 1);
            if fan.failed <= fan.tolerated {
                self.got_on = true;
                return self.item_settled(file, frame, node);
            }
        }
        match self.frames[frame].up {
            Some(up) => {
                self.frames[frame].over = true;
                self.broke(file, (up.frame, up.node, up.item), failure);
            }
            // What is under way in the flow's own may still come to its end.
            None if self.roots[0] == Some(frame) => drop(self.failing.get_or_insert_with(|| failure.clone())),
            // What is at a run's end is done as far as it can be.
            None => self.frames[frame].failed = true,
        }
    }

    /// Something has become of a node: what waits for it may be next.
    fn settled(&mut self, file: &File, frame: usize, node: usize) {
        let Some(graph) = self.graph(file, frame) else { return };
        let state = &mut self.frames[frame];
        state.left = state.left.saturating_sub(1);
        if state.left == 0 {
            self.work.push_back(Work::Frame(frame));
        }
        for (child, said) in graph.nodes.iter().enumerate() {
            if said.parents.binary_search(&node).is_ok() && self.is_ready(said, frame, child) {
                self.work.push_back(Work::Node { frame, node: child });
            }
        }
    }

    /// Whether a node waits, and for nothing more.
    pub(in crate::run) fn is_ready(&self, said: &Node, frame: usize, node: usize) -> bool {
        let nodes = &self.frames[frame].nodes;
        matches!(nodes[node], NodeState::Waiting) && said.parents.iter().all(|parent| nodes[*parent].is_settled())
    }

    fn ordered(&mut self, file: &File, at: Wall, order: &Order) {
        if let Order::Retry { from, deadline } = order {
            return self.tried_anew(file, from.as_deref(), *deadline);
        }
        if self.ended.is_some() {
            return;
        }
        match order {
            // What is done at the end of each run is done.
            Order::Cancel { undo } if self.phase == Some(Phase::Main) && self.failing.is_none() => {
                self.cancelled.get_or_insert(*undo);
                (self.paused, self.has_shrunk) = (None, true);
            }
            // It comes to its end at once.
            Order::Cancel { .. } => self.paused = None,
            Order::Retry { .. } => {}
            Order::Pause => drop(self.paused.get_or_insert(at)),
            // The time that it rested does not count.
            Order::Resume => {
                if let (Some(since), Some(accepted)) = (self.paused.take(), &mut self.accepted) {
                    accepted.deadline.0 = accepted.deadline.0.saturating_add(at.0.saturating_sub(since.0));
                }
            }
            Order::Signal { name, value } => self.signals.push_back((name.clone(), value.clone())),
        }
    }
}
