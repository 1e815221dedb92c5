//! What runs a pump: one future on one thread, which sleeps on a bell that other threads and other processes ring.
//!
//! A thread that slept in a runtime and was woken by another that waited for a ring would cost two wakes a hop. Here whoever
//! sends rings the very thread that receives. Everything that waits by a waker works as in any executor (channels, watches,
//! tasks' ends); rings register nothing and are looked at after every wake; for time there is [`timer`].

use super::shm::Bell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Result;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Debug)]
pub struct Doorbell {
    bell: Arc<Bell>,
}

/// Who waits for which time, on this thread. The number tells apart what is due at once.
#[derive(Default)]
struct Timers {
    waiting: BTreeMap<(Instant, u64), Waker>,
    next: u64,
}

thread_local! {
    /// `None` outside of [`Doorbell::block_on`].
    static TIMERS: RefCell<Option<Timers>> = const { RefCell::new(None) };
}

impl Doorbell {
    /// A bell for one thread.
    ///
    /// # Errors
    /// The system gives no memory or no file for it.
    pub fn new() -> Result<Self> {
        // Random bits by way of the standard library's hash keys.
        let nonce = RandomState::new().build_hasher().finish();
        Ok(Self { bell: Arc::new(Bell::new(nonce)?) })
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Runs `future` to its end on this thread. A runtime that it needs for spawning must have been entered.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let _inside = Inside::enter();
        let waker = Waker::from(self.bell.clone());
        let mut turn = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            // Read before anything is looked at: what comes meanwhile rings, and the sleep ends before it begins.
            let seen = self.bell.rings();
            if let Poll::Ready(value) = future.as_mut().poll(&mut turn) {
                return value;
            }
            match until_next_timer() {
                Some(Duration::ZERO) => {}
                longest => self.bell.park(seen, longest),
            }
            wake_due_timers();
        }
    }
}

/// A thread's stay in [`Doorbell::block_on`].
struct Inside {
    /// It is of one thread.
    _here: PhantomData<*const ()>,
}

impl Inside {
    fn enter() -> Self {
        TIMERS.with_borrow_mut(|timers| {
            assert!(timers.is_none(), "this thread sleeps on a doorbell already");
            *timers = Some(Timers::default());
        });
        Self { _here: PhantomData }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        TIMERS.take();
    }
}

fn until_next_timer() -> Option<Duration> {
    TIMERS.with_borrow(|timers| {
        let (at, _) = *timers.as_ref()?.waiting.keys().next()?;
        Some(at.saturating_duration_since(Instant::now()))
    })
}

fn wake_due_timers() {
    loop {
        let due = TIMERS.with_borrow_mut(|timers| {
            let waiting = &mut timers.as_mut()?.waiting;
            waiting.first_entry().filter(|first| first.key().0 <= Instant::now()).map(|first| first.remove())
        });
        match due {
            Some(waker) => waker.wake(),
            None => return,
        }
    }
}

/// Resolves at `at`. Only within [`Doorbell::block_on`].
pub fn timer(at: Instant) -> Timer {
    Timer { at, number: None }
}

/// See [`timer`].
#[derive(Debug)]
pub struct Timer {
    at: Instant,
    /// Its number among the timers, once it waits.
    number: Option<u64>,
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, turn: &mut Context<'_>) -> Poll<()> {
        if self.at <= Instant::now() {
            return Poll::Ready(());
        }
        TIMERS.with_borrow_mut(|timers| {
            let timers = timers.as_mut().expect("a doorbell's timer is waited for within its block_on");
            let number = *self.number.get_or_insert_with(|| {
                timers.next += 1;
                timers.next
            });
            timers.waiting.insert((self.at, number), turn.waker().clone());
        });
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            // Fails only while the thread ends, and its timers with it.
            let _ = TIMERS.try_with(|timers| {
                timers.borrow_mut().as_mut().and_then(|timers| timers.waiting.remove(&(self.at, number)))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[test]
    fn channels_of_other_threads_wake_it() {
        let (there, mut here_end) = mpsc::channel(1);
        let (here, mut there_end) = mpsc::channel(1);
        let ponger = std::thread::spawn(move || {
            Doorbell::new().unwrap().block_on(async move {
                while let Some(n) = there_end.recv().await {
                    there.send(n).await.unwrap();
                }
            })
        });
        Doorbell::new().unwrap().block_on(async move {
            for n in 0..10_000 {
                here.send(n).await.unwrap();
                assert_eq!(here_end.recv().await, Some(n));
            }
        });
        ponger.join().unwrap();
    }

    #[test]
    fn timers_go_off_in_their_order_and_the_dropped_ones_not_at_all() {
        let begun = Instant::now();
        let after = |ms| timer(begun + Duration::from_millis(ms));
        Doorbell::new().unwrap().block_on(async {
            let order = RefCell::new(Vec::new());
            let noted = async |ms| {
                after(ms).await;
                order.borrow_mut().push(ms);
            };
            let mut dropped = Box::pin(after(1));
            assert!(futures::poll!(dropped.as_mut()).is_pending());
            drop(dropped);
            futures::join!(noted(30), noted(10), noted(20), noted(0));
            assert_eq!(order.into_inner(), [0, 10, 20, 30]);
            TIMERS.with_borrow(|timers| assert!(timers.as_ref().unwrap().waiting.is_empty()));
        });
        assert!(begun.elapsed() >= Duration::from_millis(30));
    }
}
