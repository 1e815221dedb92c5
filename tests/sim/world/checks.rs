//! What must hold, always and at the end.

use super::clients::Client;
use super::model::Model;
use super::{END_TOKEN, World};
use stageline_base::{FaultClass, ReplicaId, StageIndex, Tick};
use stageline_core::Member;
use stageline_core::link::Room;
use stageline_core::message::{Body, FrameContent, LinkMail};
use stageline_core::requests::FinishReason;
use std::collections::BTreeSet;
use std::time::Duration;

/// Closed sequences of one door, of others, and a handful of peers.
const MOST_REMEMBERED: usize = 8192 + 2000;

impl World {
    /// What is on the device must not be free: another sequence could be given it.
    pub fn check_blocks(&mut self, index: usize) {
        let process = &self.processes[index];
        let members = process.device.iter().flat_map(|work| &work.batch.members);
        let free =
            members.flat_map(|member: &Member| member.blocks.iter()).find(|b| process.machine.block_is_free(**b));
        if let Some(block) = free {
            self.violations.push(format!("{}: block {block} is on the device and free", process.replica));
        }
    }

    /// Whatever arrives, only so much of it is remembered.
    pub fn check_memory(&mut self, index: usize) {
        let (replica, remembered) = (&self.processes[index].replica, self.processes[index].machine.remembered());
        if remembered > MOST_REMEMBERED {
            self.violations.push(format!("{replica}: it remembers {remembered} sequences, doors and senders"));
        }
    }

    /// A machine that has just taken an event in has nothing left to do now: else it would be woken for ever.
    pub fn check_deadline(&mut self, deadline: Option<Tick>, whose: &ReplicaId) {
        if let Some(at) = deadline.filter(|at| *at <= self.now) {
            self.violations.push(format!("{whose} at {:?} wants to be woken at {at:?}", self.now));
        }
    }

    /// A door opens nothing at a replica of which it knows that it is about to end, but for its own stage 0.
    pub fn check_opening(&mut self, door: &ReplicaId, draining: &BTreeSet<ReplicaId>, body: &Body) {
        let Body::Link(LinkMail::Frame { content: FrameContent::Open(opening), .. }) = body else { return };
        if let Some(ending) = opening.path.iter().find(|replica| *replica != door && draining.contains(replica)) {
            self.violations.push(format!("{door} opens {} at {ending}, which is about to end", opening.sequence));
        }
    }

    pub fn check_end(&mut self) {
        let hurried = self.doors.stage_timeout < Duration::from_secs(100);
        let mut wrong = Vec::new();
        for (index, client) in self.clients.iter().enumerate() {
            if let Err(why) = check_client(client, (self.stages, hurried), &*self.model) {
                wrong.push(format!("client {index}: {why}"));
            }
            if matches!(client.outcomes.first(), Some(Err(f)) if f.class == FaultClass::DeadlineExceeded) {
                *self.marks.entry("deadline").or_default() += 1;
            }
        }
        for process in self.processes.iter().filter(|process| process.alive) {
            let machine = &process.machine;
            let (free, total) = machine.kv_blocks();
            if free != total {
                wrong.push(format!("{}: {} KV blocks leaked", process.replica, total - free));
            }
            if machine.unsettled() != (0, Room::default()) || !process.parked.is_empty() {
                wrong.push(format!("{}: payloads or credit leaked: {:?}", process.replica, machine.unsettled()));
            }
            if machine.counts().idle > 0 {
                wrong.push(format!("{}: only the idle limit freed a sequence", process.replica));
            }
            if machine.remembered() > self.processes.len() + 4 {
                wrong.push(format!("{}: it still remembers {}", process.replica, machine.remembered()));
            }
            if !machine.is_quiet() {
                wrong.push(format!("{}: it is not quiet", process.replica));
            }
        }
        for process in self.processes.iter().filter(|process| process.alive) {
            let Some(door) = &process.door else { continue };
            if !door.machine.is_quiet() {
                wrong.push(format!("{}: its door is not quiet", process.replica));
            }
            if let Some(at) = process.machine.next_deadline() {
                wrong.push(format!("{} still waits for {at:?}", process.replica));
            }
        }
        self.violations.append(&mut wrong);
    }
}

fn check_client(client: &Client, (stages, hurried): (StageIndex, bool), model: &dyn Model) -> Result<(), String> {
    let [outcome] = client.outcomes.as_slice() else {
        return Err(format!("ended {} times", client.outcomes.len()));
    };
    match client.poisoned {
        true if client.tokens.is_empty() => {}
        true => return Err(format!("the device made tokens of what it cannot run: {:?}", client.tokens)),
        false => model.check_tokens(&client.prompt, &client.tokens, stages)?,
    }
    let end = client.tokens.iter().position(|id| *id == END_TOKEN);
    if end.is_some_and(|end| end + 1 < client.tokens.len()) || client.tokens.len() > client.max_tokens as usize {
        return Err(format!("tokens after the end: {:?}", client.tokens));
    }
    match outcome {
        Ok(_) if client.work.is_whole() => {
            let right = client.answer.as_ref().is_some_and(|answer| model.is_answer(&client.prompt, answer, stages));
            if right { Ok(()) } else { Err("wrong answer".into()) }
        }
        Ok(reason) => {
            let right_reason = if end.is_some() { FinishReason::Stop } else { FinishReason::Length };
            if end.is_none() && client.tokens.len() < client.max_tokens as usize {
                return Err(format!(
                    "the answer is cut short: {:?}, {} were asked for",
                    client.tokens, client.max_tokens
                ));
            }
            if *reason == right_reason { Ok(()) } else { Err(format!("finished by {reason:?}")) }
        }
        Err(fault) => {
            let allowed = match fault.class {
                FaultClass::Cancelled => client.cancelled,
                FaultClass::DeadlineExceeded => client.deadline < Duration::from_secs(100),
                // No door at all, one that ends, or a stage that was missing for long.
                FaultClass::Unavailable => {
                    let ended = fault.message.contains("shutting down");
                    let waited = (hurried && !client.patient) || client.deadline < Duration::from_secs(100);
                    client.sequence.is_none() || ended || waited
                }
                FaultClass::Overloaded => {
                    let begun = client.tokens.len() > client.brought;
                    !begun && !client.patient && (hurried || client.deadline < Duration::from_secs(100))
                }
                FaultClass::DeviceFailed => client.device_failures > 3 || client.poisoned,
                FaultClass::InvalidRequest => true,
                _ => false,
            };
            if allowed { Ok(()) } else { Err(format!("must not end with: {fault}")) }
        }
    }
}
