//! A network that loses, delays, repeats and reorders.

use super::{Happening, World};
use stageline_base::ReplicaId;
use stageline_core::Ticket;
use stageline_core::machine::Event;
use stageline_core::message::{Body, FrameContent, LinkMail, Report};
use stageline_core::requests::DoorEvent;
use std::time::Duration;

impl World {
    pub fn deliver(&mut self, to: &ReplicaId, from: ReplicaId, body: Body) {
        match body {
            Body::Ping => {}
            Body::Feedback(feedback) => self.door_event(to, DoorEvent::Feedback { from, feedback }),
            Body::CloseAck { number } => self.door_event(to, DoorEvent::CloseAck { from, number }),
            Body::Reply(reply) if from == *to => self.door_event(to, DoorEvent::Reply(reply)),
            Body::Reply(reply) => self.stage_event(to, Event::Reply { from, reply }),
            Body::FeedbackAck { number } => self.stage_event(to, Event::FeedbackAck { from, number }),
            Body::CloseNow { number, closes } => self.stage_event(to, Event::CloseNow { from, number, closes }),
            Body::Link(mail) => {
                let Some(process) = self.processes.iter_mut().find(|p| p.replica == *to && p.alive) else { return };
                process.next_ticket += 1;
                let ticket = Ticket(process.next_ticket);
                if let LinkMail::Frame { content: FrameContent::Rows { payload, .. }, .. } = &mail {
                    process.parked.insert(ticket, payload.clone());
                }
                self.stage_event(to, Event::Link { from, mail, ticket });
            }
        }
    }

    pub fn send(&mut self, from: ReplicaId, to: ReplicaId, body: Body) {
        if let Body::Link(LinkMail::Frame { content: FrameContent::Open(opening), .. }) = &body {
            self.openings.insert(opening.sequence, opening.clone());
        }
        if from == to {
            let happening = Happening::Mail { to, from, body };
            return self.later(self.now + Duration::from_micros(5), happening);
        }
        let plane = match &body {
            Body::Link(_) => 0,
            Body::Feedback(_) | Body::CloseAck { .. } => 2,
            _ => 1,
        };
        let dead = !self.processes.iter().any(|p| p.replica == to && p.alive);
        let mut delay = Duration::from_micros(50 + self.random.below(450));
        let faults = self.faults_now();
        if dead {
            if self.random.chance(500) {
                self.mark("unreachable");
                self.later(self.now + delay, Happening::Unreachable { to: from, peer: to });
            }
            return;
        }
        let tells = |report: &Report| matches!(report, Report::Emitted { .. });
        if matches!(&body, Body::Feedback(feedback) if feedback.reports.iter().any(tells))
            && let Some(index) = self.processes.iter().position(|p| p.replica == to)
            && let Some(time) = self.processes[index].cut_at_news.take()
        {
            self.sever(index, time);
        }
        let cut = self.processes.iter().any(|p| p.severed && (p.replica == from || p.replica == to));
        if cut || (faults && self.random.chance(8)) {
            self.mark("lost");
            return;
        }
        if faults && self.random.chance(1) {
            self.later(self.now + Duration::from_millis(1), Happening::Reconnected { to: from.clone() });
        }
        if faults && self.random.chance(10) {
            self.mark("delayed");
            delay += Duration::from_micros(self.random.below(400_000));
        }
        let stream = (from.clone(), to.clone(), plane);
        let mut at = self.now + delay;
        let ordered_at = self.streams.get(&stream).map_or(at, |last| at.max(*last + Duration::from_micros(1)));
        if faults && self.random.chance(5) && ordered_at > at {
            self.mark("reordered");
        } else {
            at = ordered_at;
        }
        self.streams.insert(stream, at.max(ordered_at));
        if faults && self.random.chance(8) {
            self.mark("duplicated");
            let again = at + Duration::from_micros(self.random.below(50_000));
            let copy = Happening::Mail { to: to.clone(), from: from.clone(), body: body.clone() };
            self.later(again, copy);
        }
        self.later(at, Happening::Mail { to, from, body });
    }
}
