//! Who lives, who ends, and who sees it.

use super::clients::Client;
use super::processes::Door;
use super::{Happening, LEASE, World};
use stageline_base::{Fault, FaultClass, ReplicaId, StageIndex};
use stageline_core::machine::Event;
use stageline_core::requests::DoorEvent;
use std::time::Duration;

impl World {
    pub fn wake(&mut self, at: &ReplicaId) {
        let Some(process) = self.processes.iter_mut().find(|p| p.replica == *at && p.alive) else { return };
        let door =
            process.door.as_mut().is_some_and(|door: &mut Door| door.wake_at.take_if(|at| *at == self.now).is_some());
        let stage = process.wake_at.take_if(|at| *at == self.now).is_some();
        if door {
            self.door_event(at, DoorEvent::Time);
        }
        if stage {
            self.stage_event(at, Event::Time);
        }
    }

    /// Of the living processes of `stage` that are not about to end, the one that was there first.
    pub fn oldest(&self, stage: StageIndex) -> Option<usize> {
        self.processes.iter().position(|p| p.alive && p.stage() == stage && p.drained_since.is_none())
    }

    /// A process is no more; the clients of its door hear nothing further, and some take what they have to another.
    pub fn die(&mut self, index: usize) {
        self.processes[index].alive = false;
        let replica = self.processes[index].replica.clone();
        let orphans = |client: &Client| client.door.as_ref() == Some(&replica) && client.outcomes.is_empty();
        let orphans: Vec<usize> = (0..self.clients.len()).filter(|index| orphans(&self.clients[*index])).collect();
        for index in orphans {
            if self.clients[index].goes_on() && self.random.chance(700) {
                self.mark("taken over");
                self.clients[index].door = None;
                self.clients[index].sequence = None;
                let wait = Duration::from_micros(self.random.below(4_000_000));
                self.later(self.now + wait, Happening::Submit(index));
                continue;
            }
            let client = &mut self.clients[index];
            client.outcomes.push(Err(Fault::new(FaultClass::Cancelled, "its door is dead")));
            client.cancelled = true;
        }
    }

    pub fn drain(&mut self, stage: StageIndex, time: Duration) {
        let Some(index) = self.oldest(stage) else { return };
        let replica = self.processes[index].replica.clone();
        self.processes[index].drained_since = Some(self.now);
        for candidate in self.leases[usize::from(stage)].iter_mut().filter(|c| c.replica == replica) {
            candidate.draining = true;
        }
        self.door_event(&replica, DoorEvent::Drain);
        self.stage_event(&replica, Event::Drain);
        self.tell_the_leases();
        self.later(self.now + time, Happening::GiveUp(replica));
    }

    /// A process ends by itself: it gives its lease up.
    pub fn exit(&mut self, replica: &ReplicaId) {
        let Some(index) = self.processes.iter().position(|p| p.replica == *replica && p.alive) else { return };
        if self.processes[index].stage() > 0 && self.processes[index].machine.live() > 0 {
            self.violations.push(format!("{replica} ended with sequences that it has not given back"));
        }
        self.mark("drained");
        self.die(index);
        self.lease_over(replica);
    }

    pub fn lease_over(&mut self, replica: &ReplicaId) {
        self.leases.iter_mut().for_each(|leases| leases.retain(|other| other.replica != *replica));
        for to in self.live_replicas() {
            self.stage_event(&to, Event::Gone { replica: replica.clone() });
        }
        self.tell_the_leases();
    }

    /// Each process looks at the leases for itself, so one may take a replica for dead while another does not.
    pub fn lapse(&mut self, stage: StageIndex) {
        let Some(index) = self.oldest(stage) else { return };
        let replica = self.processes[index].replica.clone();
        self.mark("lease lapsed");
        for to in self.live_replicas() {
            if self.random.chance(300) {
                continue;
            }
            self.stage_event(&to, Event::Gone { replica: replica.clone() });
            if let Some(process) = self.processes.iter_mut().find(|p| p.replica == to) {
                process.blind_to.insert(replica.clone());
            }
        }
        self.tell_the_leases();
        let wait = Duration::from_micros(1000 + self.random.below(4_000_000));
        self.later(self.now + wait, Happening::Renewal(replica));
    }

    /// The lease of `replica` is seen again by all.
    pub fn renewed(&mut self, replica: &ReplicaId) {
        if self.processes.iter().any(|p| p.replica == *replica && p.severed) {
            return;
        }
        for process in &mut self.processes {
            process.blind_to.remove(replica);
        }
        self.show_lease(replica);
        self.tell_the_leases();
    }

    /// Nothing reaches a process any more, nor leaves it: at once, or as soon as a door is about to be told of a token, whose rows
    /// are acknowledged by then.
    pub fn cut(&mut self, stage: StageIndex, time: Duration) {
        let Some(index) = self.oldest(stage) else { return };
        match stage {
            0 => self.processes[index].cut_at_news = Some(time),
            _ => self.sever(index, time),
        }
    }

    pub fn sever(&mut self, index: usize, time: Duration) {
        self.mark("cut off");
        self.processes[index].severed = true;
        let replica = self.processes[index].replica.clone();
        self.later(self.now + LEASE, Happening::CutOff(replica.clone()));
        self.later(self.now + time, Happening::Mended(replica));
    }

    /// Its own lease is not renewed, and the others see that. What it sees itself, it sees as it was: it judges nobody.
    pub fn cut_off(&mut self, replica: &ReplicaId) {
        self.door_event(replica, DoorEvent::Held(false));
        for to in self.live_replicas().into_iter().filter(|to| to != replica) {
            self.stage_event(&to, Event::Gone { replica: replica.clone() });
            if let Some(process) = self.processes.iter_mut().find(|p| p.replica == to) {
                process.blind_to.insert(replica.clone());
            }
        }
        self.tell_the_leases();
    }

    pub fn mended(&mut self, replica: &ReplicaId) {
        for process in self.processes.iter_mut().filter(|p| p.replica == *replica) {
            process.severed = false;
        }
        self.stage_event(replica, Event::Reconnected);
        self.door_event(replica, DoorEvent::Held(true));
        self.renewed(replica);
    }

    /// Everyone sees the lease of `replica`, each when its watch tells it.
    pub fn show_lease(&mut self, replica: &ReplicaId) {
        for to in self.live_replicas() {
            self.sees_soon(to, replica.clone());
        }
    }

    pub fn sees_soon(&mut self, to: ReplicaId, replica: ReplicaId) {
        let late = self.random.below(100_000);
        self.later(self.now + Duration::from_micros(late), Happening::Sees { to, replica });
    }

    pub fn sees(&mut self, to: &ReplicaId, replica: &ReplicaId) {
        let blind = self.processes.iter().any(|p| p.replica == *to && p.blind_to.contains(replica));
        let Some(process) = self.processes.iter().find(|p| p.alive && p.replica == *replica).filter(|_| !blind) else {
            return;
        };
        let (stage, epochs) = (process.stage(), process.machine.epoch_ceiling());
        self.stage_event(to, Event::Lives { replica: replica.clone(), stage, epochs });
    }

    pub fn live_replicas(&self) -> Vec<ReplicaId> {
        self.processes.iter().filter(|p| p.alive).map(|p| p.replica.clone()).collect()
    }

    /// Tells every process who lives, as far as it can see.
    pub fn tell_the_leases(&mut self) {
        for to in self.live_replicas() {
            let Some(process) = self.processes.iter().find(|p| p.replica == to) else { continue };
            let mut seen = self.leases.clone();
            seen.iter_mut().for_each(|leases| leases.retain(|c| !process.blind_to.contains(&c.replica)));
            self.door_event(&to, DoorEvent::Replicas(seen));
        }
    }
}
