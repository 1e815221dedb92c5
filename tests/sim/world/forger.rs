//! Somebody who speaks out of turn: a stranger without a lease, an impostor that holds one of stage 0, and forgeries in the
//! names of others, of the kinds that must do no lasting harm.

use super::{Happening, World};
use stageline_base::{ReplicaId, SequenceId, StageIndex, Tick, TokenId};
use stageline_core::machine::Event;
use stageline_core::message::{Body, Feedback, FrameContent, LinkMail, Report, Segment};
use stageline_core::{Emission, Opening};
use std::sync::Arc;
use std::time::Duration;

/// Closes of one flood: more than a stage may remember of one door.
const FLOOD: u64 = 12_000;
/// A token that no vocabulary holds.
const NO_TOKEN: TokenId = u32::MAX;

/// A living replica of stage 0 that no request goes to.
pub fn impostor() -> ReplicaId {
    ReplicaId::new("impostor", 0xbad)
}

impl World {
    /// Lets the stages see the impostor's lease, and plans what is forged.
    pub fn plan_forgeries(&mut self) {
        for to in self.live_replicas() {
            self.stage_event(&to, Event::Lives { replica: impostor(), stage: 0, epochs: 1024 });
        }
        for _ in 0..self.random.below(12) {
            let at = self.random.below(7_000_000);
            self.later(Tick(at), Happening::Forge);
        }
    }

    pub fn forge(&mut self) {
        let act = self.random.below(10);
        self.mark("forged");
        let Some((client, opening)) = self.victim() else { return };
        let (sequence, attempt) = (opening.sequence, opening.attempt);
        let position = (self.clients[client].prompt.len() + self.clients[client].tokens.len()) as u32;
        let to = opening.path[self.random.below(opening.path.len() as u64) as usize].clone();
        let (door, second) = (opening.door.clone(), opening.path.get(1).cloned());
        match (act, second) {
            (0, _) => self.say(impostor(), to, Body::CloseNow { number: 1, closes: vec![(sequence, u32::MAX)] }),
            (1, _) => {
                let closes = (1..=FLOOD).map(|counter| (SequenceId { boot: 0xbad, counter }, 1)).collect();
                self.say(impostor(), to, Body::CloseNow { number: 2, closes });
            }
            (2, _) => {
                for n in 0..40 {
                    let hello = LinkMail::Hello { epoch: 1 };
                    self.say(ReplicaId::new("stranger", 0xd0 + n), to.clone(), Body::Link(hello));
                }
            }
            (3, _) => {
                let token = Emission::Token { id: 5, observed: None };
                self.report((impostor(), 0), door, Report::Emitted { sequence, attempt, position, emission: token });
            }
            (4, _) if !std::mem::replace(&mut self.clients[client].forged, true) => {
                self.clients[client].device_failures += 1;
                let (last, token) = (self.stages - 1, Emission::Token { id: NO_TOKEN, observed: None });
                let from = opening.path[usize::from(last)].clone();
                self.report((from, last), door, Report::Emitted { sequence, attempt, position, emission: token });
            }
            (5, Some(second)) => {
                let epoch = if self.random.chance(500) { u32::MAX } else { 700 };
                let hello = LinkMail::Hello { epoch };
                self.say(door, second, Body::Link(hello));
            }
            (6, Some(second)) => {
                let path: Vec<ReplicaId> = [impostor()].into_iter().chain(opening.path[1..].iter().cloned()).collect();
                let own = Opening { attempt: attempt + 1000, path, ..(*opening).clone() };
                self.link(second, FrameContent::Open(Arc::new(own)));
            }
            (7, Some(second)) => {
                let row = segment(sequence, attempt, &opening.door, position - 1);
                self.link(second, self.rows(vec![row]));
            }
            (8, Some(second)) => {
                let made_up = |n: u64| {
                    let door = ReplicaId::new("nobody", 0xe0 + n);
                    segment(SequenceId { boot: door.boot(), counter: 1 }, 1, &door, 0)
                };
                self.link(second, self.rows((0..3).map(made_up).collect()));
            }
            _ => {}
        }
    }

    /// A request under way, and its last Open.
    fn victim(&mut self) -> Option<(usize, Arc<Opening>)> {
        let under_way = |world: &Self, index: usize| {
            let client = &world.clients[index];
            let opening = client.sequence.and_then(|sequence| world.openings.get(&sequence));
            opening.filter(|_| client.outcomes.is_empty()).map(|opening| (index, opening.clone()))
        };
        let all: Vec<_> = (0..self.clients.len()).filter_map(|index| under_way(self, index)).collect();
        (!all.is_empty()).then(|| all[self.random.below(all.len() as u64) as usize].clone())
    }

    fn say(&mut self, from: ReplicaId, to: ReplicaId, body: Body) {
        self.later(self.now + Duration::from_micros(1), Happening::Mail { to, from, body });
    }

    fn report(&mut self, (from, stage): (ReplicaId, StageIndex), door: ReplicaId, report: Report) {
        let feedback = Feedback { stage, number: u64::MAX, reports: vec![report] };
        self.say(from, door, Body::Feedback(feedback));
    }

    /// A frame on a link of the impostor's own.
    fn link(&mut self, to: ReplicaId, content: FrameContent) {
        self.forged_epochs += 1;
        let epoch = self.forged_epochs;
        self.say(impostor(), to.clone(), Body::Link(LinkMail::Hello { epoch }));
        self.say(impostor(), to, Body::Link(LinkMail::Frame { epoch, number: 1, content }));
    }

    fn rows(&self, segments: Vec<Segment>) -> FrameContent {
        let payload = self.borders[1].zeros(segments.len()).expect("rows of what crosses");
        FrameContent::Rows { segments, payload }
    }
}

fn segment(sequence: SequenceId, attempt: u32, door: &ReplicaId, start: u32) -> Segment {
    Segment { sequence, attempt, door: door.clone(), start, rows: 1, emit: true }
}
