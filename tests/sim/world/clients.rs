//! The clients and the door that serves them.

use super::model::POISON;
use super::processes::Shape;
use super::{END_TOKEN, Happening, Story, World};
use stageline::base::{Fault, ReplicaId, SequenceId, Tick, TokenId};
use stageline::core::requests::{DoorAction, DoorEvent, FinishReason, Judge, NewRequest};
use stageline::core::{Sampling, Work};
use std::time::Duration;

pub struct Client {
    pub prompt: Vec<TokenId>,
    pub max_tokens: u32,
    pub work: Work,
    pub deadline: Duration,
    pub poisoned: bool,
    pub cancelled: bool,
    pub sequence: Option<SequenceId>,
    pub tokens: Vec<TokenId>,
    pub vector: Option<Vec<f32>>,
    pub outcomes: Vec<Result<FinishReason, Fault>>,
    pub device_failures: u32,
}

/// Answers end with the end token.
struct EndTokens;

impl Judge for EndTokens {
    fn ends(&mut self, _: SequenceId, token: TokenId) -> Option<FinishReason> {
        (token == END_TOKEN).then_some(FinishReason::Stop)
    }
}

impl World {
    pub fn make_clients(&mut self, embeds: bool, shape: Shape) {
        let vocab = u64::from(self.model.vocab());
        let most = shape.kv_blocks * shape.block_size;
        for index in 0..4 + self.random.below(16) as usize {
            let length = 1 + self.random.below(u64::from(most.min(40))) as u32;
            let mut prompt: Vec<TokenId> = (0..length).map(|_| self.random.below(vocab) as TokenId).collect();
            let faults = self.story == Story::Faults;
            let poisoned = faults && self.random.chance(40);
            if poisoned {
                prompt[0] = POISON;
            }
            let work = if embeds {
                self.mark("embedded");
                Work::Embed
            } else {
                Work::Generate(Sampling::GREEDY)
            };
            let short = faults && self.random.chance(80);
            let deadline = if short { self.random.below(2000) } else { 200_000 };
            self.clients.push(Client {
                prompt,
                max_tokens: 1 + self.random.below(24) as u32,
                work,
                deadline: Duration::from_millis(deadline),
                poisoned,
                cancelled: false,
                sequence: None,
                tokens: Vec::new(),
                vector: None,
                outcomes: Vec::new(),
                device_failures: 0,
            });
            let at = Tick(self.random.below(6_000_000));
            self.later(at, Happening::Submit(index));
            if faults && self.random.chance(120) {
                // Half of them while the Open travels: a Close must be able to overtake it.
                let most = if self.random.chance(500) { 3_000 } else { 3_000_000 };
                let wait = Duration::from_micros(self.random.below(most));
                self.later(at + wait, Happening::Cancel(index));
            }
        }
    }

    pub fn submit(&mut self, index: usize) {
        let client = &self.clients[index];
        let request = NewRequest {
            call_id: format!("client-{index}"),
            work: client.work,
            prompt: client.prompt.clone(),
            max_tokens: client.max_tokens,
            deadline: self.now + client.deadline,
        };
        match self.door.submit(request) {
            Ok(sequence) => self.clients[index].sequence = Some(sequence),
            Err(fault) => self.clients[index].outcomes.push(Err(fault)),
        }
        self.door_event(DoorEvent::Time);
    }

    pub fn door_event(&mut self, event: DoorEvent) {
        let mut actions = Vec::new();
        self.door.on(self.now, event, &mut EndTokens, &mut actions);
        let me = self.processes[0].replica.clone();
        for action in actions {
            match action {
                DoorAction::Send { to, body, .. } => self.send(me.clone(), to, body),
                DoorAction::Token { sequence, id, .. } => self.client(sequence, |client| client.tokens.push(id)),
                DoorAction::Vector { sequence, values } => self.client(sequence, |c| c.vector = Some(values)),
                DoorAction::Ended { sequence, outcome } => self.client(sequence, |c| c.outcomes.push(outcome)),
                DoorAction::Drained => {}
            }
        }
        let deadline = self.door.next_deadline();
        self.check_deadline(deadline, &me);
        if let Some(at) = deadline
            && self.door_wake_at.is_none_or(|planned| at < planned || planned <= self.now)
        {
            self.door_wake_at = Some(at);
            self.later(at, Happening::Wake { at: ReplicaId::new("door", 0) });
        }
    }

    pub fn client(&mut self, sequence: SequenceId, change: impl FnOnce(&mut Client)) {
        match self.clients.iter_mut().find(|client| client.sequence == Some(sequence)) {
            Some(client) => change(client),
            None => self.violations.push(format!("the door speaks of {sequence}, which nobody asked for")),
        }
    }
}
