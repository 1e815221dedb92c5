//! The stage's links, its feedback and its clockwork.

use super::{Action, Planted, SWEEP, StageMachine};
use crate::base::{Fault, FaultClass, ReplicaId, Tick};
use crate::core::link::{Item, ItemKind, SenderNews};
use crate::core::message::{Body, Cause, Feedback, Report};
use crate::core::out_link::OutLink;

impl StageMachine {
    /// Lets `act` work on the link to `peer` and carries out what comes of it.
    pub(super) fn with_link(
        &mut self,
        now: Tick,
        peer: &ReplicaId,
        out: &mut Vec<Action>,
        act: impl FnOnce(&mut OutLink, &mut SenderNews),
    ) {
        let Some(link) = self.downstream.get_mut(peer) else { return };
        let mut news = SenderNews::default();
        act(link, &mut news);
        // A link is touched last by what ends a greeting or an epoch; both may leave a Hello due now.
        link.poll(now, &mut news);
        let stage = self.setup.stage + 1;
        for mail in news.mail {
            out.push(Action::Send { stage, to: peer.clone(), body: Body::Link(mail) });
        }
        self.report_lost(news.lost);
    }

    /// The link to the next stage lost these: their doors are told, and nothing more of the attempts is taken in.
    pub(super) fn report_lost(&mut self, lost: Vec<Item>) {
        let next = self.setup.stage + 1;
        for item in lost {
            let what = match item.kind {
                ItemKind::Open => "an Open".to_owned(),
                ItemKind::Rows(position) => format!("rows from position {position}"),
                ItemKind::Close => continue,
            };
            self.counts.lost += 1;
            // Without a match it was closed meanwhile, or a higher attempt has replaced it: nobody waits for it.
            let held = self.sequences.get_mut(&item.sequence).filter(|held| held.opening.attempt == item.attempt);
            let Some(held) = held.filter(|held| !held.failed) else { continue };
            held.failed = true;
            let words = format!("the link from stage {} to stage {next} lost {what}", self.setup.stage);
            let report = Report::Failed {
                sequence: item.sequence,
                attempt: item.attempt,
                cause: Cause::Lost,
                stage: next,
                fault: Fault::new(FaultClass::Unavailable, words).at_stage(next),
            };
            self.reports.entry(item.door).or_default().push(report);
        }
    }

    pub(super) fn on_gone(&mut self, now: Tick, replica: &ReplicaId, out: &mut Vec<Action>) {
        if let Some(link) = self.downstream.remove(replica) {
            self.report_lost(link.into_lost());
        }
        self.upstream.remove(replica);
        self.unsaid.remove(replica);
        self.doors.remove(replica);
        self.reports.remove(replica);
        let orphans: Vec<_> = self
            .sequences
            .iter()
            .filter(|(_, held)| held.opening.door == *replica)
            .map(|(sequence, held)| (*sequence, held.opening.attempt))
            .collect();
        for (sequence, attempt) in orphans {
            self.close(now, sequence, attempt, out);
        }
    }

    pub(super) fn on_time(&mut self, now: Tick, out: &mut Vec<Action>) {
        let due: Vec<ReplicaId> = self
            .downstream
            .iter()
            .filter(|(_, link)| link.next_deadline().is_some_and(|at| at <= now))
            .map(|(peer, _)| peer.clone())
            .collect();
        for peer in due {
            self.with_link(now, &peer, out, |_, _| {});
        }
        for (door, outbox) in &mut self.doors {
            for (number, reports) in outbox.due(now) {
                let body = Body::Feedback(Feedback { number, reports });
                out.push(Action::Send { stage: 0, to: door.clone(), body });
            }
        }
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP;
            self.tombstones.retain(|_, (_, until)| *until > now);
            let idle: Vec<_> = self
                .sequences
                .iter()
                .filter(|(_, held)| held.busy == 0 && now.since(held.touched) >= self.setup.idle_limit)
                .map(|(sequence, held)| (*sequence, held.opening.attempt))
                .collect();
            for (sequence, attempt) in idle {
                self.counts.idle += 1;
                self.close(now, sequence, attempt, out);
            }
        }
    }

    /// Sends this event's reports and the state of the links that have changed.
    pub(super) fn say(&mut self, now: Tick, out: &mut Vec<Action>) {
        for (door, reports) in std::mem::take(&mut self.reports) {
            for report in &reports {
                if let Report::Failed { fault, .. } | Report::Refused { fault, .. } = report {
                    self.counts.faults[fault.class as usize] += 1;
                }
            }
            let outbox = self.doors.entry(door.clone()).or_default();
            let number = outbox.add(now, reports.clone());
            if self.setup.planted == Planted::ForgetFeedback {
                outbox.acknowledged(number);
            }
            out.push(Action::Send { stage: 0, to: door, body: Body::Feedback(Feedback { number, reports }) });
        }
        for peer in std::mem::take(&mut self.unsaid) {
            if let Some(link) = self.upstream.get(&peer) {
                let body = Body::Reply(link.state());
                out.push(Action::Send { stage: self.setup.stage.saturating_sub(1), to: peer, body });
            }
        }
    }
}
