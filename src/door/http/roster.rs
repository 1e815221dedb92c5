//! The connections that are here, and which of them goes when there is no room for another: the one that has waited longest,
//! for a request, the rest of one, or a look at health or metrics. One that serves a request stays.

use stageline_base::{Fault, FaultClass};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Connections beside those that serve requests: for whoever looks at health, readiness or metrics while all others serve.
pub(super) const SPARE: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Roster {
    /// Most connections that serve requests.
    most: usize,
    most_per_peer: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    here: HashMap<u64, Here>,
    /// Those that serve no request, the longest wait first.
    waiting: BTreeMap<u64, u64>,
    serving: usize,
    peers: HashMap<IpAddr, usize>,
    /// Numbers connections and waits.
    next: u64,
}

#[derive(Debug)]
struct Here {
    peer: IpAddr,
    /// Requests that it serves.
    serves: usize,
    /// Its key among those that wait, while it serves none.
    waits: u64,
    shed: CancellationToken,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn remove(&mut self, id: u64) -> Option<CancellationToken> {
        let gone = self.here.remove(&id)?;
        match gone.serves {
            0 => drop(self.waiting.remove(&gone.waits)),
            _ => self.serving -= 1,
        }
        if let Some(count) = self.peers.get_mut(&gone.peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&gone.peer);
            }
        }
        Some(gone.shed)
    }

    /// Has `id` wait anew, if it serves nothing.
    fn wait_anew(&mut self, id: u64) {
        let number = self.number();
        if let Some(here) = self.here.get_mut(&id).filter(|here| here.serves == 0) {
            self.waiting.remove(&here.waits);
            here.waits = number;
            self.waiting.insert(number, id);
        }
    }
}

impl Roster {
    /// Room for `most` connections that serve requests, and for [`SPARE`] more; 0 is no limit for one peer.
    pub(super) fn new(most: usize, most_per_peer: usize) -> Arc<Self> {
        let most_per_peer = if most_per_peer == 0 { usize::MAX } else { most_per_peer };
        Arc::new(Self { most: most.max(1), most_per_peer, state: Mutex::default() })
    }

    /// A seat for a connection from `peer`, for which another one may have to go; `None` if that peer has too many.
    pub(super) fn seat(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let mut state = self.lock();
        if state.peers.get(&peer).is_some_and(|count| *count >= self.most_per_peer) {
            return None;
        }
        let room = if state.serving < self.most { self.most } else { self.most + SPARE };
        if state.here.len() >= room
            && let Some(id) = state.waiting.values().next().copied()
            && let Some(shed) = state.remove(id)
        {
            shed.cancel();
        }
        let (id, waits) = (state.number(), state.number());
        let shed = CancellationToken::new();
        state.here.insert(id, Here { peer, serves: 0, waits, shed: shed.clone() });
        state.waiting.insert(waits, id);
        *state.peers.entry(peer).or_default() += 1;
        Some(Seat { roster: Arc::clone(self), id, shed })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the roster, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    roster: Arc<Roster>,
    id: u64,
    shed: CancellationToken,
}

impl Seat {
    /// Resolves when the connection has to go.
    pub(super) async fn shed(&self) {
        self.shed.cancelled().await;
    }

    /// Something has come: it waits anew.
    pub(super) fn moves(&self) {
        self.roster.lock().wait_anew(self.id);
    }

    /// It serves one more request.
    ///
    /// # Errors
    /// `Overloaded` if all connections that may serve requests do.
    pub(super) fn serves(&self) -> Result<(), Fault> {
        let mut state = self.roster.lock();
        let State { here, waiting, serving, .. } = &mut *state;
        // One that was told to go is about to be dropped.
        let Some(here) = here.get_mut(&self.id) else { return Ok(()) };
        if here.serves == 0 {
            if *serving >= self.roster.most {
                let words = format!("there is no room: {} connections serve requests", self.roster.most);
                return Err(Fault::new(FaultClass::Overloaded, words));
            }
            *serving += 1;
            waiting.remove(&here.waits);
        }
        here.serves += 1;
        Ok(())
    }

    /// It serves one request less.
    pub(super) fn rests(&self) {
        let mut state = self.roster.lock();
        let Some(here) = state.here.get_mut(&self.id).filter(|here| here.serves > 0) else { return };
        here.serves -= 1;
        if here.serves == 0 {
            state.serving -= 1;
            state.wait_anew(self.id);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.roster.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn gone(seats: &[Seat]) -> Vec<bool> {
        seats.iter().map(|seat| seat.shed.is_cancelled()).collect()
    }

    #[test]
    fn the_longest_wait_goes_and_never_one_that_serves() {
        let roster = Roster::new(3, 0);
        let mut seats: Vec<Seat> = (0..3).map(|_| roster.seat(PEER).unwrap()).collect();
        seats[0].serves().unwrap();
        seats[1].moves();
        seats.push(roster.seat(PEER).unwrap());
        assert_eq!(gone(&seats), [false, false, true, false]);
        // The first has answered: it has waited less long than the second.
        seats[0].rests();
        seats.push(roster.seat(PEER).unwrap());
        assert_eq!(gone(&seats), [false, true, true, false, false]);
        drop(seats);
        assert!(roster.lock().here.is_empty() && roster.lock().waiting.is_empty() && roster.lock().peers.is_empty());
    }

    #[test]
    fn where_all_serve_there_is_room_to_look_and_none_to_ask() {
        let roster = Roster::new(2, 0);
        let busy: Vec<Seat> = (0..2).map(|_| roster.seat(PEER).unwrap()).collect();
        for seat in &busy {
            seat.serves().unwrap();
            seat.serves().unwrap();
        }
        let spare: Vec<Seat> = (0..SPARE + 1).map(|_| roster.seat(PEER).unwrap()).collect();
        assert_eq!(gone(&busy), [false, false]);
        assert_eq!(gone(&spare).iter().filter(|gone| **gone).count(), 1);
        assert!(gone(&spare)[0], "the longest wait");
        assert_eq!(spare[1].serves().unwrap_err().class, FaultClass::Overloaded);
        busy[0].rests();
        assert!(spare[1].serves().is_err(), "it still serves another request");
        busy[0].rests();
        spare[1].serves().unwrap();
    }

    #[test]
    fn a_peer_may_be_held_to_a_number() {
        let roster = Roster::new(10, 2);
        let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let mut seats: Vec<Seat> = (0..2).map(|_| roster.seat(PEER).unwrap()).collect();
        assert!(roster.seat(PEER).is_none());
        assert!(roster.seat(other).is_some());
        seats.pop();
        assert!(roster.seat(PEER).is_some());
    }
}
