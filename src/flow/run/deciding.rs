//! What a run does next: from what its log says to what it is to say.

mod meanwhile;
mod phases;

use super::datum::Datum;
use super::events::{Planted, RunAction};
use super::logged::{Failure, FailureClass, Given, Logged, With};
use super::machine::Run;
use super::scope::{Hole, Scope};
use super::state::{Key, NodeState, SlotState, Spot, Work};
use crate::definition::{Call, Does, File, Node, Wait};
use crate::times;
use serde_json::Value as Json;
use stageline_core::durable::Wall;
use std::sync::Arc;
use std::time::Duration;

/// Most items of one `foreach`.
const MOST_ITEMS: usize = 10_000;

fn later(at: Wall, by: Duration) -> Wall {
    Wall(at.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

impl Run {
    /// Says all that can be said now.
    pub(super) fn decide(&mut self, now: Wall, out: &mut Vec<RunAction>) {
        let file = Arc::clone(&self.file);
        loop {
            self.take_outcomes(&file, now);
            if self.state.ended.is_some() {
                return;
            }
            self.take_timers(&file, now);
            self.take_signals(&file, now);
            // What failed, or is done at the end, waits, too: whoever cancels a run that rests lifts that.
            if self.state.paused.is_some() {
                return;
            }
            if let Some(Work::Node { .. } | Work::Broken { .. } | Work::Frame(_)) = self.state.work.front() {
                self.take_work(&file, now, out);
                continue;
            }
            if !self.next_phase(&file, now) {
                return;
            }
        }
    }

    fn take_work(&mut self, file: &File, now: Wall, out: &mut Vec<RunAction>) {
        let Some(work) = self.state.work.pop_front() else { return };
        let frame = match work {
            Work::Node { frame, .. } | Work::Broken { frame, .. } | Work::Frame(frame) => frame,
        };
        if !self.state.is_live(frame) || self.state.is_stopping() {
            return;
        }
        let hole = match work {
            Work::Node { frame, node } => self.node_is_next(file, now, frame, node),
            Work::Broken { frame, node, item } => self.goes_on(file, now, (frame, node, item)),
            Work::Frame(frame) => self.frame_is_done(file, now, frame),
        };
        if let Err(blob) = hole {
            out.push(RunAction::Fetch(blob));
            self.stalled.push(work);
        }
    }

    fn scope<'a>(&'a self, file: &'a File, frame: usize, node: usize, item: Option<u32>) -> Scope<'a> {
        let (state, known, run) = (&self.state, &self.known, &*self.setup.run);
        Scope { state, file, known, run, frame, node, item, error: None, output: None }
    }

    fn key(&self, file: &File, frame: usize, node: usize, item: Option<u32>) -> Key {
        let id = self.state.graph(file, frame).and_then(|graph| graph.nodes.get(node)).map_or("", |node| &node.id);
        Key::of(&self.state.frames[frame].prefix, id, item)
    }

    /// Says that something failed for good.
    fn fail(&mut self, file: &File, now: Wall, key: Key, (class, reason): (FailureClass, String)) {
        let failure = Failure { node: Some(key.clone()), class, reason };
        self.say(file, now, Logged::Failed { key, failure, again: None, counts: true });
    }

    /// A value, or the blob that must be read first; a failure is said.
    fn or_fail<T>(&mut self, file: &File, now: Wall, key: &Key, value: Result<T, Hole>) -> Result<Option<T>, Needed> {
        match value {
            Ok(value) => Ok(Some(value)),
            Err(Hole::Blob(blob)) => Err(blob),
            Err(Hole::Failure(class, reason)) => {
                self.fail(file, now, key.clone(), (class, reason));
                Ok(None)
            }
        }
    }

    /// A node that waits for nothing more, or that is done for items.
    fn node_is_next(&mut self, file: &File, now: Wall, frame: usize, node: usize) -> Result<(), Needed> {
        let Some(said) = self.state.graph(file, frame).and_then(|graph| graph.nodes.get(node)) else { return Ok(()) };
        if self.state.frames[frame].nodes[node].is_fanned() {
            return self.next_items(file, now, (frame, node), said);
        }
        let arrived = self.setup.planted == Planted::CountArrivals && self.some_arrived(said, frame);
        if !self.state.is_ready(said, frame, node) && !arrived {
            return Ok(());
        }
        let key = self.key(file, frame, node, None);
        let nodes = &self.state.frames[frame].nodes;
        let all_skipped = said.parents.iter().all(|parent| matches!(nodes[*parent], NodeState::Skipped));
        if !said.parents.is_empty() && all_skipped {
            self.say(file, now, Logged::Skipped { key });
            return Ok(());
        }
        if let Some(when) = &said.when {
            let holds = self.scope(file, frame, node, None).holds(when);
            match self.or_fail(file, now, &key, holds)? {
                Some(true) => {}
                Some(false) => {
                    self.say(file, now, Logged::Skipped { key });
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
        match &said.each {
            None => self.begin(file, now, (frame, node, None), said),
            Some(each) => {
                let items = self.scope(file, frame, node, None).evaluated(&each.over);
                let Some(items) = self.or_fail(file, now, &key, items)? else { return Ok(()) };
                let count = match &items {
                    Json::Array(items) => items.len(),
                    Json::Object(items) => items.len(),
                    other => {
                        let what = if other.is_null() { "none" } else { "neither a list nor a map" };
                        self.fail(file, now, key, (FailureClass::Value, format!("foreach: its value is {what}")));
                        return Ok(());
                    }
                };
                if count > MOST_ITEMS {
                    let words = format!("foreach: {count} items are more than {MOST_ITEMS}");
                    self.fail(file, now, key, (FailureClass::Value, words));
                    return Ok(());
                }
                let items = Given::Here(Datum::Json(super::Json::of(&items)));
                self.say(file, now, Logged::Fanned { key, items, count: count as u32 });
                Ok(())
            }
        }
    }

    fn some_arrived(&self, said: &Node, frame: usize) -> bool {
        let nodes = &self.state.frames[frame].nodes;
        said.parents.iter().any(|parent| nodes[*parent].is_settled())
    }

    /// Begins as many items as may be under way.
    fn next_items(&mut self, file: &File, now: Wall, (frame, node): (usize, usize), said: &Node) -> Result<(), Needed> {
        let parallel = said.each.as_ref().map_or(1, |each| each.parallel.max(1)) as usize;
        loop {
            if !self.state.is_live(frame) || self.state.is_stopping() {
                return Ok(());
            }
            let NodeState::Each(fan) = &mut self.state.frames[frame].nodes[node] else { return Ok(()) };
            let idle = |item: &usize| matches!(fan.slots[*item].state, SlotState::Idle);
            let next = (fan.next..fan.slots.len()).find(idle).unwrap_or(fan.slots.len());
            fan.next = next;
            if fan.running >= parallel || next == fan.slots.len() {
                return Ok(());
            }
            self.begin(file, now, (frame, node, Some(next as u32)), said)?;
        }
    }

    /// Does what a node does, or what it does for an item.
    fn begin(
        &mut self,
        file: &File,
        now: Wall,
        (frame, node, item): (usize, usize, Option<u32>),
        said: &Node,
    ) -> Result<(), Needed> {
        let key = self.key(file, frame, node, item);
        match &said.does {
            Does::Call(call) => {
                let scope = self.scope(file, frame, node, item);
                let whole = scope.given(&said.input).and_then(|input| Ok((input, with(scope, call)?)));
                if let Some((input, with)) = self.or_fail(file, now, &key, whole)? {
                    self.say(file, now, Logged::Called { key, attempt: 1, input: Some(input), with });
                }
            }
            Does::Set(template) => {
                let output = self.scope(file, frame, node, item).template(template);
                if let Some(output) = self.or_fail(file, now, &key, output)? {
                    self.say(file, now, Logged::Done { key, output });
                }
            }
            Does::Wait(Wait::Signal(name)) => match self.state.signals.iter().find(|(said, _)| said == name) {
                Some((_, value)) => {
                    let output = Given::Here(value.clone());
                    self.say(file, now, Logged::Done { key, output });
                }
                None => self.say(file, now, Logged::Waits { key, until: later(now, said.timeout) }),
            },
            Does::Wait(Wait::For(template) | Wait::Until(template)) => {
                let value = self.scope(file, frame, node, item).json(template);
                let Some(value) = self.or_fail(file, now, &key, value)? else { return Ok(()) };
                let text = value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_owned());
                let until = match &said.does {
                    Does::Wait(Wait::For(_)) => times::duration(&text).map(|wait| later(now, wait)),
                    _ => times::moment(&text).map(Wall),
                };
                match until {
                    Ok(until) => self.say(file, now, Logged::Waits { key, until }),
                    Err(words) => self.fail(file, now, key, (FailureClass::Value, format!("wait: {words}"))),
                }
            }
            Does::Group(_) | Does::Flow(_) => {
                let inherits = matches!((&said.does, &said.input), (Does::Group(_), crate::definition::Input::Usual));
                let input = match inherits {
                    true => Ok(None),
                    false => self.scope(file, frame, node, item).given(&said.input).map(Some),
                };
                if let Some(input) = self.or_fail(file, now, &key, input)? {
                    self.say(file, now, Logged::Opened { key, input });
                }
            }
        }
        Ok(())
    }

    /// What failed goes on with what is said for it.
    fn goes_on(
        &mut self,
        file: &File,
        now: Wall,
        (frame, node, item): (usize, usize, Option<u32>),
    ) -> Result<(), Needed> {
        let Some(slot) = self.state.slot(&Spot::Node { frame, node, item }) else { return Ok(()) };
        let SlotState::Broken(failure) = slot.state.clone() else { return Ok(()) };
        let said = self.state.graph(file, frame).and_then(|graph| graph.nodes.get(node));
        let Some(template) = said.and_then(|said| said.on_error.as_ref()) else { return Ok(()) };
        let key = self.key(file, frame, node, item);
        let output = Scope { error: Some(&failure), ..self.scope(file, frame, node, item) }.template(template);
        if let Some(output) = self.or_fail(file, now, &key, output)? {
            self.say(file, now, Logged::Done { key, output });
        }
        Ok(())
    }

    /// All nodes of a frame are done.
    fn frame_is_done(&mut self, file: &File, now: Wall, frame: usize) -> Result<(), Needed> {
        if self.state.frames[frame].left > 0 {
            return Ok(());
        }
        let flow = file.flows.get(self.state.frames[frame].place.flow());
        if let Some(up) = self.state.frames[frame].up {
            let spot = Spot::Node { frame: up.frame, node: up.node, item: up.item };
            if !self
                .state
                .slot(&spot)
                .is_some_and(|slot| matches!(slot.state, SlotState::Inside(inner) if inner == frame))
            {
                return Ok(());
            }
            let key = self.key(file, up.frame, up.node, up.item);
            let output = match flow.filter(|_| !self.state.frames[frame].sees_out).and_then(|flow| flow.output.as_ref())
            {
                Some(template) => self.given_out(file, frame, template).map(Given::Here),
                None => Ok(Given::Leaves),
            };
            if let Some(output) = self.or_fail(file, now, &key, output)? {
                self.say(file, now, Logged::Done { key, output });
            }
        } else if self.state.roots[0] == Some(frame) && self.state.output.is_none() {
            let output = match flow.and_then(|flow| flow.output.as_ref()) {
                Some(template) => self.given_out(file, frame, template),
                None => self.scope(file, frame, 0, None).leaves(frame),
            };
            match output {
                Ok(output) => self.say(file, now, Logged::Output(output)),
                Err(Hole::Blob(blob)) => return Err(blob),
                Err(Hole::Failure(class, reason)) => {
                    let reason = format!("output: {reason}");
                    self.say(file, now, Logged::Failing(Failure { node: None, class, reason }));
                }
            }
        }
        Ok(())
    }

    /// What a flow gives, as a value that means the same everywhere.
    fn given_out(&self, file: &File, frame: usize, template: &crate::definition::Template) -> Result<Datum, Hole> {
        let scope = self.scope(file, frame, 0, None);
        scope.datum(&scope.template(template)?)
    }
}

/// The blob that must be read before it can be said what comes next.
type Needed = Arc<super::Blob>;

/// What goes with a call beside its body.
fn with(scope: Scope<'_>, call: &Call) -> Result<With, Hole> {
    let pairs = |named: &[(String, crate::definition::Template)]| {
        let pair = |(name, template): &(String, _)| {
            let text = match scope.json(template)? {
                Json::String(text) => text,
                Json::Null => String::new(),
                other => other.to_string(),
            };
            Ok::<_, Hole>((name.clone(), text))
        };
        named.iter().map(pair).collect::<Result<Vec<_>, _>>()
    };
    Ok(With { headers: pairs(&call.headers)?, query: pairs(&call.query)? })
}
