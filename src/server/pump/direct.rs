//! Rows that are run past the door.

use super::Pump;
use stageline_base::{Fault, FaultClass, ReplicaId, SequenceId, Tick};
use stageline_core::Body;
use stageline_core::direct::{DirectAction, DirectMachine, DirectOutput, DirectRun};
use std::collections::{HashMap, VecDeque};
use tokio::sync::{mpsc, oneshot};

/// Somebody's rows.
pub struct DirectCall {
    /// The rows.
    pub run: DirectRun,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Result<DirectOutput, Fault>>,
    /// Resolves when nobody waits for it any more.
    pub gone: oneshot::Receiver<()>,
}

/// Who runs them, and for whom.
pub(super) struct Direct {
    machine: DirectMachine,
    pub(super) calls: mpsc::Receiver<DirectCall>,
    waiting: HashMap<SequenceId, oneshot::Sender<Result<DirectOutput, Fault>>>,
    /// What the stage has said and nobody has heard yet.
    pub(super) said: VecDeque<Body>,
}

impl Direct {
    pub(super) fn new((machine, calls): (DirectMachine, mpsc::Receiver<DirectCall>)) -> Self {
        Self { machine, calls, waiting: HashMap::new(), said: VecDeque::new() }
    }

    pub(super) fn is(&self, replica: &ReplicaId) -> bool {
        self.machine.me() == replica
    }

    pub(super) fn owns(&self, sequence: SequenceId) -> bool {
        self.machine.me().boot() == sequence.boot
    }

    pub(super) fn next_deadline(&self) -> Option<Tick> {
        self.machine.next_deadline()
    }
}

impl Pump {
    pub(super) fn run_directly(&mut self, call: DirectCall, draining: bool) {
        let DirectCall { run, reply, gone } = call;
        let mut out = Vec::new();
        let submitted =
            if draining { Err(self.shutting_down()) } else { self.direct.machine.submit(self.now(), run, &mut out) };
        match submitted {
            Ok(sequence) => {
                self.direct.waiting.insert(sequence, reply);
                self.watch_client(sequence, gone);
            }
            // Whoever called may have stopped waiting.
            Err(fault) => drop(reply.send(Err(fault))),
        }
        self.act_directly(out);
    }

    pub(super) fn cancel_direct(&mut self, sequence: SequenceId) {
        let (now, mut out) = (self.now(), Vec::new());
        self.direct.waiting.remove(&sequence);
        self.direct.machine.cancel(now, sequence, &mut out);
        self.act_directly(out);
    }

    /// Ends the runs that are left.
    pub(super) fn give_up_direct(&mut self) {
        let left: Vec<SequenceId> = self.direct.waiting.keys().copied().collect();
        for sequence in left {
            if let Some(reply) = self.direct.waiting.remove(&sequence) {
                let _ = reply.send(Err(self.shutting_down()));
            }
            self.cancel_direct(sequence);
        }
    }

    fn shutting_down(&self) -> Fault {
        let words = "this replica is shutting down: send the rows again, to another";
        Fault::new(FaultClass::Unavailable, words).at_stage(self.me.stage)
    }

    pub(super) fn direct_time(&mut self) {
        let (now, mut out) = (self.now(), Vec::new());
        self.direct.machine.on_time(now, &mut out);
        self.act_directly(out);
    }

    /// Lets the machine hear one thing that the stage has said; false if there is none.
    pub(super) fn settle_direct(&mut self) -> bool {
        let Some(body) = self.direct.said.pop_front() else { return false };
        let (now, mut out) = (self.now(), Vec::new());
        self.direct.machine.on(now, body, &mut out);
        self.act_directly(out);
        true
    }

    fn act_directly(&mut self, actions: Vec<DirectAction>) {
        for action in actions {
            match action {
                DirectAction::Send(body) => self.take(self.direct.machine.me().clone(), body),
                DirectAction::Done(sequence, outcome) => {
                    if let Some(reply) = self.direct.waiting.remove(&sequence) {
                        // Whoever called may have stopped waiting.
                        let _ = reply.send(outcome);
                    }
                }
            }
        }
    }
}
