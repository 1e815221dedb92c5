//! Who is where: the subjects of a peer, and the token by which the broker says that nobody listens there.

use crate::{Arrived, Peer};
use async_nats::Subject;
use stageline_base::ReplicaId;
use stageline_wire::{Place, Plane, Subjects};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Most pairs of replicas remembered. Beyond it the table starts anew; a peer's absence is then found by its link's timer.
const MAX_ROUTES: usize = 4096;

/// The way from one replica of this process to a peer.
#[derive(Debug)]
pub(super) struct Route {
    subjects: [Subject; 3],
    /// Where the broker answers if nobody listens. Subscribed on this connection: without that no answer comes.
    pub(super) reply: Subject,
}

impl Route {
    pub(super) fn subject(&self, plane: Plane) -> Subject {
        let [control, feedback, stream] = &self.subjects;
        match plane {
            Plane::Control => control.clone(),
            Plane::Feedback => feedback.clone(),
            Plane::Stream => stream.clone(),
        }
    }
}

/// Every route of a connection.
pub(super) struct Routes {
    subjects: Subjects,
    inbox: String,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    routes: HashMap<ReplicaId, HashMap<Peer, Arc<Route>>>,
    /// By token, which counts up and is never used again: who sent, to whom.
    ends: HashMap<u64, (ReplicaId, Peer)>,
    next_token: u64,
    /// The replicas of this process.
    local: HashMap<ReplicaId, mpsc::Sender<Arrived>>,
}

impl Routes {
    pub(super) fn new(subjects: Subjects, inbox: String) -> Self {
        Self { subjects, inbox, table: Mutex::default() }
    }

    /// The subject of all the answers.
    pub(super) fn replies(&self) -> String {
        format!("{}.*", self.inbox)
    }

    /// The route from `from` to `to`, made if it is new.
    pub(super) fn to(&self, (stage, from): Place, to: &Peer) -> Arc<Route> {
        let mut table = self.lock();
        if let Some(route) = table.routes.get(from).and_then(|routes| routes.get(to)) {
            return route.clone();
        }
        if table.ends.len() >= MAX_ROUTES {
            table.ends.clear();
            table.routes.clear();
        }
        let token = table.next_token;
        table.next_token += 1;
        let planes = [Plane::Control, Plane::Feedback, Plane::Stream];
        let route = Arc::new(Route {
            subjects: planes.map(|plane| self.subjects.subject((to.stage, &to.replica), plane, (stage, from)).into()),
            reply: format!("{}.{token}", self.inbox).into(),
        });
        table.ends.insert(token, (from.clone(), to.clone()));
        table.routes.entry(from.clone()).or_default().insert(to.clone(), route.clone());
        route
    }

    /// Names the control plane of a replica of this process.
    pub(super) fn add_local(&self, replica: ReplicaId, control: mpsc::Sender<Arrived>) {
        let mut table = self.lock();
        table.local.retain(|_, control| !control.is_closed());
        table.local.insert(replica, control);
    }

    /// Tells the sender that what it sent found nobody. `subject` is where the broker answered.
    pub(super) fn nobody(&self, subject: &str) {
        let token = subject.rsplit_once('.').and_then(|(_, token)| token.parse().ok());
        let table = self.lock();
        let Some((from, peer)) = token.and_then(|token: u64| table.ends.get(&token)) else { return };
        if let Some(control) = table.local.get(from) {
            // A hint: where it does not fit, the link's timer finds out.
            let _ = control.try_send(Arrived::Unreachable { peer: peer.clone() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing under this lock can leave the table half changed, so a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
