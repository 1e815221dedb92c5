//! The stage's links, its feedback and its clockwork.

use super::{Action, Held, SWEEP, StageMachine};
use crate::link::{Item, ItemKind, SenderNews};
use crate::message::{Body, Cause, Feedback, Report};
use crate::out_link::OutLink;
use crate::planted::Planted;
use stageline_base::{Attempt, Fault, FaultClass, ReplicaId, SequenceId, StageIndex, Tensors, Tick};

/// Most bytes of tensors that feedback brings at once, unless a single answer is larger: far below what a parcel may be.
const FEEDBACK_BYTES: u64 = 16 << 20;

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
        out.extend(news.acknowledged.into_iter().map(Action::Acknowledged));
        self.report_lost(news.lost);
    }

    /// The link to the next stage lost these: their doors are told, and nothing more of the attempts is taken in. A link
    /// sends its Closes again as long as it lives, so that one is lost only with the link.
    pub(super) fn report_lost(&mut self, lost: Vec<Item>) {
        let (here, next) = (self.setup.stage, self.setup.stage + 1);
        for item in lost {
            let what = match item.kind {
                ItemKind::Open => "an Open".to_owned(),
                ItemKind::Rows(position) => format!("rows from position {position}"),
                ItemKind::Close => "a Close".to_owned(),
            };
            self.counts.lost += 1;
            let words = format!("the link from stage {here} to stage {next} lost {what}");
            if item.kind == ItemKind::Close {
                self.report_failed(&item.door, (item.sequence, item.attempt), next, &words);
            } else if self.sequences.get(&item.sequence).is_some_and(|held| held.opening.attempt == item.attempt) {
                self.give_up(item.sequence, next, &words);
            }
            // Any other was closed meanwhile, or a higher attempt has replaced it: nobody waits for it.
        }
    }

    /// Ends what is held of a sequence, once: its door is told, and nothing more of the attempt is taken in.
    fn give_up(&mut self, sequence: SequenceId, stage: StageIndex, words: &str) {
        let Some(held) = self.sequences.get_mut(&sequence).filter(|held| !held.failed) else { return };
        held.failed = true;
        let (door, attempt) = (held.opening.door.clone(), held.opening.attempt);
        self.report_failed(&door, (sequence, attempt), stage, words);
    }

    fn report_failed(
        &mut self,
        door: &ReplicaId,
        (sequence, attempt): (SequenceId, Attempt),
        stage: StageIndex,
        words: &str,
    ) {
        let fault = Fault::new(FaultClass::Unavailable, words).at_stage(stage);
        self.report(door, Report::Failed { sequence, attempt, cause: Cause::Lost, stage, fault });
    }

    /// A replica is taken for dead. It may live, its lease only renewed late, and others may not have noticed: whatever had to
    /// do with it fails here, and its doors are told, itself too if it is one.
    pub(super) fn on_gone(&mut self, now: Tick, replica: &ReplicaId, out: &mut Vec<Action>) {
        self.strike_off(now, replica);
        self.end_link(replica);
        self.upstream.remove(replica);
        self.unsaid.remove(replica);
        self.fail_what_leads_through(replica, "the lease of the stage's replica ran out");
        let orphans = self.sequences.iter().filter(|(_, held)| held.opening.door == *replica);
        let orphans: Vec<_> = orphans.map(|(sequence, held)| (*sequence, held.opening.attempt)).collect();
        for (sequence, attempt) in orphans {
            self.close(now, sequence, attempt, out);
        }
    }

    /// Ends the attempts whose door `replica` is, or whose next stage.
    fn fail_what_leads_through(&mut self, replica: &ReplicaId, words: &str) {
        let (here, next) = (self.setup.stage, self.setup.stage + 1);
        let ignored = self.setup.planted == Planted::IgnoreDeath;
        let leads = |held: &Held| held.opening.path.get(usize::from(next)) == Some(replica) && !ignored;
        let of_it: Vec<(SequenceId, bool)> = self
            .sequences
            .iter()
            .filter(|(_, held)| held.opening.door == *replica || leads(held))
            .map(|(sequence, held)| (*sequence, held.opening.door == *replica))
            .collect();
        for (sequence, is_its_door) in of_it {
            match is_its_door {
                true => self.give_up(sequence, here, "the lease of the sequence's door ran out"),
                false => self.give_up(sequence, next, words),
            }
        }
    }

    /// Gives what is held back to other doors, which replay it where a replica lives; this replica's own door ends its requests
    /// itself.
    pub(super) fn give_back_all(&mut self, now: Tick, out: &mut Vec<Action>) {
        if self.setup.planted == Planted::KeepWhenToldToGiveBack {
            return;
        }
        let of_others = self.sequences.iter().filter(|(_, held)| held.opening.door != self.setup.me);
        let given: Vec<_> = of_others.map(|(sequence, held)| (*sequence, held.opening.attempt)).collect();
        for (sequence, attempt) in given {
            self.give_up(sequence, self.setup.stage, "the stage's replica is shutting down");
            self.pass_close_on(now, sequence, attempt, out);
            self.close(now, sequence, attempt, out);
        }
    }

    fn end_link(&mut self, to: &ReplicaId) {
        if let Some(link) = self.downstream.remove(to) {
            self.new_epoch = self.new_epoch.max(link.epoch() + 1);
            self.report_lost(link.into_lost());
        }
    }

    /// Ends the links whose receiver has not answered for a lease: it died before they began, by an Open that came late.
    fn end_unanswered_links(&mut self, now: Tick) {
        let unanswered = |link: &OutLink| link.greets_since().is_some_and(|since| since + self.setup.lease <= now);
        let ended: Vec<ReplicaId> =
            self.downstream.iter().filter(|(_, link)| unanswered(link)).map(|(to, _)| to.clone()).collect();
        for to in ended {
            self.end_link(&to);
            // What has nothing on its way would wait for a link that is no more.
            self.fail_what_leads_through(&to, "the stage's replica does not answer");
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
                let body = Body::Feedback(Feedback { stage: self.setup.stage, number, reports });
                out.push(Action::Send { stage: 0, to: door.clone(), body });
            }
        }
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP;
            self.end_unanswered_links(now);
            self.tombstones.sweep(now);
            self.forget_the_gone(now);
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
        for (door, reports) in std::mem::take(&mut self.reports).into_iter().flat_map(in_parcels) {
            for report in &reports {
                if let Report::Failed { fault, .. } | Report::Refused { fault, .. } = report {
                    self.counts.faults[fault.class as usize] += 1;
                }
            }
            let outbox = self.doors.entry(door.clone()).or_default();
            let bytes = reports.iter().filter_map(Report::tensors).map(Tensors::bytes).sum();
            let number = outbox.add_large(now, reports.clone(), bytes);
            if self.setup.planted == Planted::ForgetFeedback {
                outbox.acknowledged(number);
            }
            let body = Body::Feedback(Feedback { stage: self.setup.stage, number, reports });
            out.push(Action::Send { stage: 0, to: door, body });
        }
        for peer in std::mem::take(&mut self.unsaid) {
            if let Some(link) = self.upstream.get(&peer) {
                let body = Body::Reply(link.state());
                out.push(Action::Send { stage: self.setup.stage.saturating_sub(1), to: peer, body });
            }
        }
    }
}

/// What a door is to be told, in messages none of which brings more than [`FEEDBACK_BYTES`] of tensors, or one answer.
fn in_parcels((door, reports): (ReplicaId, Vec<Report>)) -> impl Iterator<Item = (ReplicaId, Vec<Report>)> {
    let mut parcels: Vec<Vec<Report>> = Vec::new();
    let mut left = 0;
    for report in reports {
        let bytes = report.tensors().map_or(0, Tensors::bytes);
        match parcels.last_mut() {
            Some(parcel) if bytes <= left => parcel.push(report),
            _ => {
                left = FEEDBACK_BYTES;
                parcels.push(vec![report]);
            }
        }
        left = left.saturating_sub(bytes);
    }
    parcels.into_iter().map(move |parcel| (door.clone(), parcel))
}
