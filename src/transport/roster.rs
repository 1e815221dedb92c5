//! Who is taken to live, judged by the age of the last renewal. Pure: time is an argument.

use super::Peer;
use super::lease::{LEASE, RENEWAL, peer};
use stageline_base::Tick;
use stageline_wire::Status;
use std::collections::BTreeMap;

/// The replicas known from their leases.
///
/// The broker is not trusted to tell of every end: one that keeps the bucket in memory and restarts has forgotten it. So
/// an age decides. And nobody is judged by silence that may be ours: not while the broker is away, and not within one lease
/// after it came back or this process overslept.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<Peer, Member>,
    broker_away: bool,
    /// Nobody's lease runs out before.
    grace_until: Tick,
}

#[derive(Debug)]
struct Member {
    status: Status,
    renewed: Tick,
}

impl Roster {
    /// `status` was published or read again.
    pub(super) fn renewed(&mut self, now: Tick, status: Status) {
        self.members.insert(peer(&status), Member { status, renewed: now });
    }

    /// `peer` gave its lease up.
    pub(super) fn withdrawn(&mut self, peer: &Peer) {
        self.members.remove(peer);
    }

    /// The broker says that the lease of `peer` ran out.
    pub(super) fn ran_out(&mut self, now: Tick, peer: &Peer) {
        if !self.broker_away && now >= self.grace_until {
            self.members.remove(peer);
        }
    }

    /// The broker is lost.
    pub(super) fn broker_lost(&mut self) {
        self.broker_away = true;
    }

    /// The broker is back.
    pub(super) fn broker_back(&mut self, now: Tick) {
        self.broker_away = false;
        self.grace_until = now + LEASE;
    }

    /// Time passed: takes out whose lease has run out.
    pub(super) fn judge(&mut self, now: Tick) {
        let Some(due) = self.next_deadline() else { return };
        if now < due {
            return;
        }
        if now.since(due) > RENEWAL {
            // We slept: what the others sent meanwhile may still be on its way to us.
            self.grace_until = now + LEASE;
            return;
        }
        self.members.retain(|_, member| member.renewed + LEASE > now);
    }

    /// When [`Roster::judge`] is to be called next.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        let first = self.members.values().map(|member| member.renewed + LEASE).min()?;
        (!self.broker_away).then_some(first.max(self.grace_until))
    }

    /// The records of the living, by stage and id.
    pub(super) fn replicas(&self) -> Vec<Status> {
        self.members.values().map(|member| member.status.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stageline_base::{Element, ReplicaId};
    use stageline_wire::{Phase, WIRE_VERSION};

    fn status(boot: u64) -> Status {
        Status {
            wire_version: WIRE_VERSION,
            manifest: "ab".repeat(32),
            stage: 1,
            replica: ReplicaId::new("pod", boot),
            started_unix_ms: 0,
            phase: Phase::Ready,
            kv_blocks_total: 1,
            kv_blocks_free: 1,
            block_size: 16,
            max_model_len: 64,
            live_sequences: 0,
            link_epochs: 1024,
            wire_dtype: Element::F32,
            join: None,
            hop: None,
        }
    }

    fn at(ms: u64) -> Tick {
        Tick(ms * 1000)
    }

    #[test]
    fn a_lease_runs_out_by_age_unless_it_is_renewed() {
        let mut roster = Roster::default();
        roster.renewed(at(0), status(1));
        roster.renewed(at(0), status(2));
        roster.renewed(at(1000), status(2));
        assert_eq!(roster.next_deadline(), Some(at(3000)));
        roster.judge(at(2999));
        assert_eq!(roster.replicas().len(), 2);
        roster.judge(at(3000));
        assert_eq!(roster.replicas(), [status(2)]);
        roster.judge(at(4000));
        assert_eq!(roster.replicas(), []);
        assert_eq!(roster.next_deadline(), None);
    }

    #[test]
    fn nobody_is_declared_dead_without_the_broker_nor_for_one_lease_after() {
        let mut roster = Roster::default();
        roster.renewed(at(0), status(1));
        roster.renewed(at(0), status(2));
        roster.broker_lost();
        assert_eq!(roster.next_deadline(), None);
        roster.judge(at(60_000));
        roster.broker_back(at(60_000));
        roster.ran_out(at(60_001), &peer(&status(1)));
        roster.judge(at(62_999));
        assert_eq!(roster.replicas().len(), 2);
        roster.renewed(at(62_999), status(1));
        roster.judge(at(63_000));
        assert_eq!(roster.replicas(), [status(1)]);
    }

    #[test]
    fn who_oversleeps_does_not_judge() {
        let mut roster = Roster::default();
        roster.renewed(at(0), status(1));
        roster.judge(at(9000));
        assert_eq!(roster.replicas().len(), 1);
        roster.judge(at(12_000));
        assert_eq!(roster.replicas().len(), 0);
    }

    #[test]
    fn a_withdrawal_and_the_brokers_word_count_at_once() {
        let mut roster = Roster::default();
        roster.renewed(at(0), status(1));
        roster.renewed(at(0), status(2));
        roster.withdrawn(&peer(&status(1)));
        roster.ran_out(at(10), &peer(&status(2)));
        assert_eq!(roster.replicas(), []);
    }
}
