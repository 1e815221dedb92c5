//! What arrives at the pump, and what leaves.

use super::Pump;
use stageline_base::{Fault, ReplicaId, StageIndex};
use stageline_core::machine::Event;
use stageline_core::message::{Body, FrameContent, LinkMail};
use stageline_core::requests::DoorEvent;
use stageline_core::{Mail, Opening, Refusal, Ticket};
use stageline_transport::{Arrived, Peer, PostError};

impl Pump {
    pub(super) fn arrived(&mut self, arrived: Option<Arrived>) -> Result<(), Fault> {
        match arrived.ok_or_else(|| Fault::internal("the transport has ended"))? {
            Arrived::Mail(mail) => self.take_from_outside(mail),
            Arrived::Unreachable { peer } => {
                self.stage_event(Event::Unreachable { peer: peer.replica.clone() });
                self.door_event(DoorEvent::Unreachable(peer.replica));
            }
            Arrived::Reconnected => self.stage_event(Event::Reconnected),
        }
        Ok(())
    }

    /// Mail of another process. No such speaks in the name of this one, none serves two stages, and a stage reports for itself.
    fn take_from_outside(&mut self, Mail { from, stage, body }: Mail) {
        let ours = from == self.me.replica || self.direct.is(&from);
        let elsewhere = self.live.iter().any(|peer| peer.replica == from && peer.stage != stage);
        let for_another = matches!(&body, Body::Feedback(feedback) if feedback.stage != stage);
        if ours || elsewhere || for_another {
            self.observe(|metrics| {
                metrics.refused[Refusal::Name as usize].inc();
            });
            return;
        }
        self.take(from, body);
    }

    pub(super) fn take(&mut self, from: ReplicaId, body: Body) {
        match body {
            Body::Link(mail) => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                match &mail {
                    LinkMail::Frame { content: FrameContent::Rows { payload, .. }, .. } => {
                        self.parked.insert(ticket, (payload.clone(), self.now()));
                    }
                    LinkMail::Frame { content: FrameContent::Open(opening), .. } => {
                        let Opening { call_id, trace, sequence, attempt, .. } = &**opening;
                        let stage = self.me.stage;
                        tracing::debug!(stage, call_id, traceparent = %trace, %sequence, attempt, "asked to open a sequence");
                    }
                    _ => {}
                }
                self.stage_event(Event::Link { from, mail, ticket });
            }
            // Only the door has a link whose receiver is this very replica.
            Body::Reply(reply) if from == self.me.replica => self.door_event(DoorEvent::Reply(reply)),
            Body::Reply(reply) => self.stage_event(Event::Reply { from, reply }),
            Body::FeedbackAck { number } => self.stage_event(Event::FeedbackAck { from, number }),
            Body::CloseNow { number, closes } => self.stage_event(Event::CloseNow { from, number, closes }),
            Body::Ping => {}
            Body::CloseAck { number } => self.door_event(DoorEvent::CloseAck { from, number }),
            Body::Feedback(feedback) => self.door_event(DoorEvent::Feedback { from, feedback }),
        }
    }

    /// Delivers what the door, or whoever runs rows directly, and the stage have for each other.
    pub(super) fn settle_local(&mut self) {
        loop {
            if let Some(body) = self.local.pop_front() {
                self.take(self.me.replica.clone(), body);
            } else if !self.settle_direct() {
                return;
            }
        }
    }

    pub(super) fn send(&mut self, stage: StageIndex, to: ReplicaId, body: Body) {
        if to == self.me.replica {
            self.local.push_back(body);
            return;
        }
        if self.direct.is(&to) {
            self.direct.said.push_back(body);
            return;
        }
        let mail = Mail { from: self.me.replica.clone(), stage: self.me.stage, body };
        match self.post.post(&Peer { stage, replica: to.clone() }, mail) {
            Ok(()) => {}
            Err(PostError::Closed) => self.failed = Some(Fault::internal("the transport has ended")),
            Err(error) => tracing::warn!(stage = self.me.stage, to = %to, %error, "mail was not taken"),
        }
    }
}
