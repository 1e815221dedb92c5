//! What a thread sleeps on: a futex in a shared segment, so that other processes can wake it too.

use super::Segment;
use std::io::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::task::Wake;
use std::time::Duration;

/// Length of a bell's segment.
const LENGTH: usize = 4096;
/// Where the word is that counts the rings, and where the one that says whether anyone sleeps: a cache line each.
const RINGS: usize = 64;
const SLEEPS: usize = 128;
/// Longest sleep: a peer that scribbles over the words costs its receiver a second, not its life.
const LONGEST: Duration = Duration::from_secs(1);

/// What the word says of the thread: it is awake, it sleeps on the futex, or on something that only this process can wake.
const AWAKE: u32 = 0;
const ON_FUTEX: u32 = 1;
const ELSEWHERE: u32 = 2;

/// A thread's bell.
#[derive(Debug)]
pub(crate) struct Bell {
    segment: Segment,
    nonce: u64,
    /// Wakes the thread where it sleeps elsewhere.
    elsewhere: Option<mio::Waker>,
    /// Other processes that may ring.
    strangers: Arc<AtomicUsize>,
}

/// Stands for another process that may ring, as long as it lives.
#[derive(Debug)]
pub(crate) struct Stranger(Arc<AtomicUsize>);

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Bell {
    /// A bell that nobody sleeps on. `nonce` tells it from other processes' files; `elsewhere` wakes its thread in
    /// [`Bell::park_elsewhere`].
    pub(crate) fn new(nonce: u64, elsewhere: Option<mio::Waker>) -> Result<Self> {
        let segment = Segment::create(LENGTH)?;
        segment.nonce().store(nonce, SeqCst);
        Ok(Self { segment, nonce, elsewhere, strangers: Arc::default() })
    }

    /// Before another process is told of the bell.
    pub(crate) fn stranger(&self) -> Stranger {
        self.strangers.fetch_add(1, SeqCst);
        Stranger(self.strangers.clone())
    }

    /// Whether other processes may ring: then the thread must sleep on the futex, the only thing they reach.
    pub(crate) fn has_strangers(&self) -> bool {
        self.strangers.load(SeqCst) > 0
    }

    /// What its segments and those of its rings begin with.
    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    /// The number of its file.
    pub(crate) fn number(&self) -> u32 {
        self.segment.number()
    }

    /// How often it has been rung. Whoever means to sleep reads this first, then looks for work, then sleeps on it.
    pub(crate) fn rings(&self) -> u32 {
        self.segment.word(RINGS).load(SeqCst)
    }

    /// Sleeps until it is rung, unless it has been since it read `seen`; at most `longest`.
    pub(crate) fn park(&self, seen: u32, longest: Option<Duration>) {
        let (rings, sleeps) = (self.segment.word(RINGS), self.segment.word(SLEEPS));
        // Who rings first counts, then looks whether anyone sleeps; who sleeps first says so, then looks at the count. So
        // one of the two sees the other.
        sleeps.store(ON_FUTEX, SeqCst);
        if rings.load(SeqCst) == seen {
            wait(rings, seen, longest.map_or(LONGEST, |longest| longest.min(LONGEST)));
        }
        sleeps.store(AWAKE, Relaxed);
    }

    /// As [`Bell::park`], but calls `sleep`, which the waker ends.
    pub(crate) fn park_elsewhere(&self, seen: u32, sleep: impl FnOnce()) {
        let sleeps = self.segment.word(SLEEPS);
        sleeps.store(ELSEWHERE, SeqCst);
        if self.rings() == seen {
            sleep();
        }
        sleeps.store(AWAKE, Relaxed);
    }

    /// Rings from within this process.
    pub(crate) fn ring(&self) {
        self.segment.word(RINGS).fetch_add(1, SeqCst);
        let sleeps = self.segment.word(SLEEPS);
        if sleeps.load(SeqCst) == AWAKE {
            return;
        }
        // Taken back, so that only the first of many who ring makes the call.
        match (sleeps.swap(AWAKE, SeqCst), &self.elsewhere) {
            (AWAKE, _) => {}
            // It fails only where there is no memory for the thread to be woken with.
            (ELSEWHERE, Some(waker)) => drop(waker.wake()),
            _ => wake(self.segment.word(RINGS)),
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Another process's bell.
#[derive(Debug)]
pub(crate) struct RemoteBell {
    segment: Segment,
}

impl RemoteBell {
    /// The bell that process `pid` has open as `number`.
    pub(crate) fn open(pid: u32, number: u32, nonce: u64) -> Result<Self> {
        let segment = Segment::open(pid, number, LENGTH)?;
        if segment.nonce().load(SeqCst) != nonce {
            return Err(Error::other("the bell holds another number than was said"));
        }
        Ok(Self { segment })
    }

    /// Rings it.
    pub(crate) fn ring(&self) {
        self.segment.word(RINGS).fetch_add(1, SeqCst);
        // Never taken back: killed before the call, this process would have left everyone else thinking that it was made.
        if self.segment.word(SLEEPS).load(SeqCst) != AWAKE {
            wake(self.segment.word(RINGS));
        }
    }
}

fn wait(word: &AtomicU32, seen: u32, longest: Duration) {
    let longest = libc::timespec {
        tv_sec: longest.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(longest.subsec_nanos() as i32),
    };
    // SAFETY: the word and the time live during the call, which reads both. Its outcome does not matter: whoever wakes, for
    // whatever reason, looks for work.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &raw const longest) };
}

fn wake(word: &AtomicU32) {
    // SAFETY: the call takes the word's address for a name and touches no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_between_the_look_and_the_sleep_is_not_missed() {
        let bell = Bell::new(9, None).unwrap();
        let seen = bell.rings();
        bell.ring();
        let begun = std::time::Instant::now();
        bell.park(seen, None);
        assert!(begun.elapsed() < LONGEST, "it slept to the end");
    }

    #[test]
    fn whoever_sleeps_is_woken_from_within_and_from_without() {
        let bell = Arc::new(Bell::new(9, None).unwrap());
        let remote = RemoteBell::open(std::process::id(), bell.number(), 9).unwrap();
        assert!(RemoteBell::open(std::process::id(), bell.number(), 8).is_err(), "another nonce");
        for remotely in [false, true] {
            let begun = std::time::Instant::now();
            // Each of many turns would take a second if its ring were missed.
            const TURNS: u32 = 1000;
            let answers = Bell::new(9, None).unwrap();
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    for turn in 0..TURNS {
                        while answers.rings() == turn {
                            answers.park(turn, None);
                        }
                        if remotely { remote.ring() } else { bell.ring() }
                    }
                });
                for _ in 0..TURNS {
                    let seen = bell.rings();
                    answers.ring();
                    while bell.rings() == seen {
                        bell.park(seen, None);
                    }
                }
            });
            assert!(begun.elapsed() < LONGEST * TURNS / 4, "rings are missed");
        }
    }
}
