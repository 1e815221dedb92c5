//! The memory that the bodies of all requests take together. When it is all taken, the body that has been arriving for longest is
//! refused. Short bodies have memory of their own: long ones cannot take it from them.

use stageline_base::{Fault, FaultClass};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Bodies of up to so many bytes are short.
const SHORT_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Bodies {
    /// Of each of the two.
    most: usize,
    short: Mutex<State>,
    long: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By number, the oldest first.
    counted: BTreeMap<u64, Counted>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Counted {
    bytes: usize,
    whole: bool,
    shed: CancellationToken,
}

impl State {
    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        let gone = self.counted.remove(&number)?;
        self.bytes -= gone.bytes;
        Some(gone.shed)
    }
}

impl Bodies {
    /// Room for `most` bytes of short bodies, and for as many of long ones.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, short: Mutex::default(), long: Mutex::default() })
    }

    /// The share of a body of which nothing has arrived.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { bodies: Arc::clone(self), bytes: 0, number: 0, shed: CancellationToken::new() }
    }

    /// Where bodies of `bytes` bytes are counted.
    fn lock(&self, bytes: usize) -> MutexGuard<'_, State> {
        let state = if bytes > SHORT_BYTES { &self.long } else { &self.short };
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one body takes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bodies: Arc<Bodies>,
    bytes: usize,
    /// Its place among those of its kind; 0 while nothing of it has arrived.
    number: u64,
    shed: CancellationToken,
}

impl Share {
    /// So many bytes more.
    ///
    /// # Errors
    /// `Overloaded` if they were too much and this body has been arriving for longest.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        let grown = self.bytes + bytes;
        if self.bytes <= SHORT_BYTES && grown > SHORT_BYTES {
            self.bodies.lock(self.bytes).remove(self.number);
            (self.number, self.bytes) = (0, 0);
        }
        let mut state = self.bodies.lock(grown);
        let more = grown - self.bytes;
        self.bytes = grown;
        if self.number == 0 {
            state.next += 1;
            self.number = state.next;
            state.counted.insert(self.number, Counted { bytes: 0, whole: false, shed: self.shed.clone() });
        }
        if let Some(counted) = state.counted.get_mut(&self.number) {
            counted.bytes += more;
            state.bytes += more;
        }
        while state.bytes > self.bodies.most {
            let oldest = state.counted.iter().find(|(_, counted)| !counted.whole).map(|(number, _)| *number);
            match oldest.and_then(|number| state.remove(number)) {
                Some(shed) => shed.cancel(),
                None => break,
            }
        }
        drop(state);
        if self.shed.is_cancelled() { Err(self.refusal()) } else { Ok(()) }
    }

    /// All of it has arrived: it is refused no more.
    pub(crate) fn is_whole(&self) {
        if let Some(counted) = self.bodies.lock(self.bytes).counted.get_mut(&self.number) {
            counted.whole = true;
        }
    }

    /// Resolves when this body has to make room for others.
    pub(crate) async fn shed(&self) {
        self.shed.cancelled().await;
    }

    /// Why it is refused then.
    pub(crate) fn refusal(&self) -> Fault {
        let most = self.bodies.most;
        Fault::new(FaultClass::Overloaded, format!("there is no room: request bodies take {most} bytes together"))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bodies.lock(self.bytes).remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_is_not_whole_makes_room() {
        let bodies = Bodies::new(10 * SHORT_BYTES);
        let mut shares: Vec<Share> = (0..4).map(|_| bodies.share()).collect();
        for share in &mut shares[..3] {
            share.grow(3 * SHORT_BYTES).unwrap();
        }
        shares[0].is_whole();
        let long = || bodies.lock(usize::MAX).bytes;
        // A short one takes nothing from the long.
        shares[3].grow(SHORT_BYTES).unwrap();
        assert_eq!((long(), bodies.lock(0).bytes), (9 * SHORT_BYTES, SHORT_BYTES));
        shares[3].grow(SHORT_BYTES).unwrap();
        let shed = |shares: &[Share]| shares.iter().map(|share| share.shed.is_cancelled()).collect::<Vec<_>>();
        assert_eq!(shed(&shares), [false, true, false, false]);
        assert_eq!(shares[1].grow(1).unwrap_err().class, FaultClass::Overloaded);
        assert_eq!((long(), bodies.lock(0).bytes), (8 * SHORT_BYTES, 0));
        for share in &shares {
            share.is_whole();
        }
        assert!(bodies.share().grow(3 * SHORT_BYTES).is_err(), "all others are whole");
        drop(shares);
        assert_eq!((long(), bodies.lock(usize::MAX).counted.len()), (0, 0));
        bodies.share().grow(10 * SHORT_BYTES).unwrap();
    }

    #[test]
    fn short_ones_are_bounded_too() {
        let bodies = Bodies::new(2 * SHORT_BYTES);
        let mut shares: Vec<Share> = (0..3).map(|_| bodies.share()).collect();
        for share in &mut shares {
            share.grow(SHORT_BYTES).unwrap();
        }
        assert!(shares[0].shed.is_cancelled() && !shares[1].shed.is_cancelled());
    }
}
