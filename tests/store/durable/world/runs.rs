//! Runs of requests at doors.

use super::answers::{right, right_prompt};
use super::doors::Who;
use super::{Asked, Due, World};
use stageline_core::durable::{LoggedToken, OwnerEvent};
use stageline_core::requests::FinishReason;

impl World {
    /// Whoever waits to run alone may, if nothing runs at its door.
    pub fn turn(&mut self, who: Who) {
        let (door, boot, slot) = who;
        if !self.reaches(who, || Due::Turn { door, boot, slot }) {
            return;
        }
        if self.doors[door].holds.values().any(|held| held.run.is_some()) {
            self.at(self.now + 50, Due::Turn { door, boot, slot });
            return;
        }
        self.mark("a request ran alone");
        self.on(who, OwnerEvent::Turn);
    }

    /// Runs what is owned, behind what is generated already.
    pub fn begin(&mut self, who: Who, generated: Vec<LoggedToken>) {
        let (door, boot, slot) = who;
        let held = &self.doors[door].holds[&slot];
        if held.owner.is_over() {
            // It heard at once that it was followed.
            return;
        }
        // As it stood when it became this one's: another may have followed meanwhile.
        let (request, life) = (held.request, held.owner.life().clone());
        if life.deaths > 0 {
            self.mark("an owner followed another");
        }
        self.begins(request, &life, &generated);
        let when = self.now + self.random.below(if self.calm() { 100 } else { 1500 });
        let held = self.doors[door].holds.get_mut(&slot).unwrap();
        held.runs += 1;
        let run = held.runs;
        held.run = Some((generated.len() as u32, run));
        held.seen = Some(generated.len());
        self.at(when, Due::Token { door, boot, slot, run });
        self.on(who, OwnerEvent::Began(right_prompt(request)));
    }

    pub fn token(&mut self, who: Who, run: u64) {
        let (door, boot, slot) = who;
        if !self.reaches(who, || Due::Token { door, boot, slot, run }) {
            return;
        }
        let Some(held) = self.doors[door].holds.get_mut(&slot) else { return };
        let request = held.request;
        let Some((made, _)) = held.run.filter(|(_, current)| *current == run) else { return };
        let Asked { length, poison, .. } = self.asked[request];
        if poison == Some(made) {
            self.die(door);
            return;
        }
        if made >= length {
            held.run = None;
            self.on(who, OwnerEvent::RunEnded(Ok(FinishReason::Stop)));
            return;
        }
        held.run = Some((made + 1, run));
        let longest = if self.chance(5) { 800 } else { 60 };
        let when = self.now + 1 + self.random.below(longest);
        self.at(when, Due::Token { door, boot, slot, run });
        self.on(who, OwnerEvent::Token(LoggedToken { id: right(request, made), observed: None }));
    }
}
