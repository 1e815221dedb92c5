//! The clients and the door that serves them.

use super::model::POISON;
use super::processes::{Process, Shape};
use super::{END_TOKEN, Happening, Story, World};
use stageline_base::{Fault, FaultClass, ReplicaId, SequenceId, Task, Tensors, Tick, TokenId, Trace};
use stageline_core::requests::{DoorAction, DoorEvent, FinishReason, Judged, NewRequest};
use stageline_core::{Sampling, Work};
use std::time::Duration;

pub struct Client {
    pub prompt: Vec<TokenId>,
    pub max_tokens: u32,
    pub work: Work,
    pub deadline: Duration,
    /// It waits as long as it may for room and for what is missing.
    pub patient: bool,
    pub poisoned: bool,
    pub cancelled: bool,
    pub door: Option<ReplicaId>,
    pub sequence: Option<SequenceId>,
    pub tokens: Vec<TokenId>,
    /// Of these, the ones that it brought to its door.
    pub brought: usize,
    pub answer: Option<Tensors>,
    pub outcomes: Vec<Result<FinishReason, Fault>>,
    pub device_failures: u32,
    /// A token of it has been forged.
    pub forged: bool,
}

impl Client {
    /// Whether its answer has begun and is not known to have ended.
    pub fn goes_on(&self) -> bool {
        let ended = self.tokens.contains(&END_TOKEN) || self.tokens.len() >= self.max_tokens as usize;
        !self.tokens.is_empty() && !ended && !self.cancelled && !self.forged
    }
}

impl World {
    pub fn make_clients(&mut self, task: Task, shape: Shape) {
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
            let work = Work::of(task, Sampling::GREEDY);
            if work.is_whole() {
                self.mark("embedded");
            }
            let short = faults && self.random.chance(80);
            let deadline = if short { self.random.below(2000) } else { 200_000 };
            self.clients.push(Client {
                prompt,
                max_tokens: 1 + self.random.below(24) as u32,
                work,
                deadline: Duration::from_millis(deadline),
                patient: index % 4 == 3,
                poisoned,
                cancelled: false,
                door: None,
                sequence: None,
                tokens: Vec::new(),
                brought: 0,
                answer: None,
                outcomes: Vec::new(),
                device_failures: 0,
                forged: false,
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
            trace: Trace::begun(1, 1),
            work: client.work,
            input: self.model.input(&client.prompt),
            generated: client.tokens.clone(),
            max_tokens: client.max_tokens,
            deadline: self.now + client.deadline,
            patient: client.patient,
        };
        let takes = |p: &&mut Process| p.alive && p.drained_since.is_none() && p.door.is_some();
        let doors = self.processes.iter_mut().filter(takes).count() as u64;
        let chosen = if doors == 0 { 0 } else { self.random.below(doors) as usize };
        let Some(process) = self.processes.iter_mut().filter(takes).nth(chosen) else {
            let fault = Fault::new(FaultClass::Unavailable, "there is no door");
            return self.clients[index].outcomes.push(Err(fault));
        };
        let to = process.replica.clone();
        self.clients[index].door = Some(to.clone());
        self.clients[index].brought = self.clients[index].tokens.len();
        let submitted = process.door.as_mut().map(|door| door.machine.submit(self.now, request));
        match submitted {
            Some(Ok(sequence)) => self.clients[index].sequence = Some(sequence),
            Some(Err(fault)) => self.clients[index].outcomes.push(Err(fault)),
            None => {}
        }
        self.door_event(&to, DoorEvent::Time);
    }

    pub fn door_event(&mut self, at: &ReplicaId, event: DoorEvent) {
        let Some(index) = self.processes.iter().position(|p| p.replica == *at && p.alive) else { return };
        let Some(door) = &mut self.processes[index].door else { return };
        if let DoorEvent::Replicas(replicas) = &event {
            let draining = replicas.iter().flatten().filter(|candidate| candidate.draining);
            door.draining = draining.map(|candidate| candidate.replica.clone()).collect();
        }
        let mut actions = Vec::new();
        door.machine.on(self.now, event, &mut actions);
        let draining = door.draining.clone();
        let (mut judged, mut mail) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                // After all that clients are told: what is sent to its own stage may come back at once, and end the process.
                DoorAction::Send { to, body, .. } => mail.push((to, body)),
                DoorAction::Token { sequence, position, id, .. } => {
                    self.client(sequence, |client| client.tokens.push(id));
                    let end = (id == END_TOKEN).then_some(FinishReason::Stop);
                    let about = Judged { sequence, position, end };
                    // Whoever writes the answer may take its time.
                    if self.story == Story::Faults && self.random.chance(50) {
                        self.mark("judged late");
                        let wait = Duration::from_micros(self.random.below(20_000));
                        self.later(self.now + wait, Happening::Judged { at: at.clone(), about });
                    } else {
                        judged.push(about);
                    }
                }
                DoorAction::Answer { sequence, tensors } => self.client(sequence, |c| c.answer = Some(tensors)),
                DoorAction::Ended { sequence, outcome } => {
                    let class = outcome.as_ref().err().map(|fault| fault.class);
                    self.client(sequence, |c| c.outcomes.push(outcome));
                    match class {
                        Some(FaultClass::Overloaded) => self.mark("no room in time"),
                        Some(FaultClass::Unavailable) => self.mark("waited for a stage"),
                        _ => {}
                    }
                }
                DoorAction::Drained => {}
            }
        }
        for (to, body) in mail {
            self.check_opening(at, &draining, &body);
            self.send(at.clone(), to, body);
        }
        if !judged.is_empty() {
            self.door_event(at, DoorEvent::Judged(judged));
        }
        let Some(door) = &self.processes[index].door else { return };
        let deadline = door.machine.next_deadline();
        self.check_deadline(deadline, at);
        let now = self.now;
        if let Some(deadline) = deadline
            && let Some(door) = &mut self.processes[index].door
            && door.wake_at.is_none_or(|planned| deadline < planned || planned <= now)
        {
            door.wake_at = Some(deadline);
            self.later(deadline, Happening::Wake { at: at.clone() });
        }
        self.end_if_finished(index);
    }

    pub fn client(&mut self, sequence: SequenceId, change: impl FnOnce(&mut Client)) {
        match self.clients.iter_mut().find(|client| client.sequence == Some(sequence)) {
            Some(client) => change(client),
            None => self.violations.push(format!("the door speaks of {sequence}, which nobody asked for")),
        }
    }
}
