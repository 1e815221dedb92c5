//! What runs a pump: its future on one thread, which sleeps on a bell that other threads and other processes ring.
//!
//! A thread that slept in a runtime and was woken by another that waited for a ring would cost two wakes a hop. Here whoever
//! sends rings the very thread that receives. Everything that waits by a waker works as in any executor (channels, watches,
//! tasks' ends); rings register nothing and are looked at after every wake; for time there is [`timer`].
//!
//! Connections of hops are its tasks too: the thread that has mail writes it, and the one that wants it reads it. It sleeps on
//! their sockets then, and who rings wakes it there. Only where other processes may ring as well, which reach nothing but the
//! futex, it sleeps on that, and a runtime's thread rings when a socket has something.

use super::shm::{Bell, Watch};
use super::sockets::{Socket, Sockets};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Result;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone)]
pub struct Doorbell {
    bell: Arc<Bell>,
    /// What has been spawned and not begun; `None` once the thread has finished.
    spawned: Arc<Mutex<Option<Vec<BoxFuture<'static, ()>>>>>,
    sockets: Arc<Sockets>,
}

impl std::fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Doorbell").field(&self.bell).finish()
    }
}

/// Turns between two looks at the sockets.
const TURNS: u32 = 8;

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
        let (sockets, waker) = Sockets::new()?;
        let bell = Arc::new(Bell::new(nonce, Some(waker))?);
        Ok(Self { bell, spawned: Arc::new(Mutex::new(Some(Vec::new()))), sockets: Arc::new(sockets) })
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Has the thread run `task` beside its future, for as long as that runs. A panic ends the task alone.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let guarded = AssertUnwindSafe(task).catch_unwind().map(|outcome| {
            if outcome.is_err() {
                tracing::error!("a task of a pump's thread has panicked");
            }
        });
        // A task may hold this doorbell: dropped here where nobody would ever run it, it does not keep itself alive.
        if let Some(spawned) = self.spawned().as_mut() {
            spawned.push(guarded.boxed());
        }
        self.bell.ring();
    }

    /// Takes a connection over, for a task of the thread.
    ///
    /// # Errors
    /// The system does not watch it.
    pub(super) fn socket(&self, stream: tokio::net::TcpStream) -> Result<Socket> {
        self.sockets.socket(stream.into_std()?)
    }

    fn spawned(&self) -> std::sync::MutexGuard<'_, Option<Vec<BoxFuture<'static, ()>>>> {
        // Nothing under this lock can panic half way.
        self.spawned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `future` to its end on this thread, once, and what is spawned as long. A runtime that it needs for spawning must
    /// have been entered.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let _inside = Inside::enter();
        let waker = Waker::from(self.bell.clone());
        let mut turn = Context::from_waker(&waker);
        let mut future = pin!(future);
        let (mut tasks, mut watch) = (FuturesUnordered::new(), None);
        let mut run_tasks = |turn: &mut Context<'_>| {
            tasks.extend(self.spawned().as_mut().map(std::mem::take).unwrap_or_default());
            while let Poll::Ready(Some(())) = tasks.poll_next_unpin(turn) {}
        };
        loop {
            // Read before anything is looked at: what comes meanwhile rings, and the sleep ends before it begins.
            let mut seen = self.bell.rings();
            for number in 1.. {
                // First what brings mail.
                run_tasks(&mut turn);
                if let Poll::Ready(value) = future.as_mut().poll(&mut turn) {
                    run_tasks(&mut turn);
                    *self.spawned() = None;
                    return value;
                }
                let now = self.bell.rings();
                // The last turn leaves what has rung for after the look.
                if now == seen || number == TURNS {
                    break;
                }
                // What the mail made the future send has rung: it needs no look at the sockets.
                seen = now;
            }
            self.sleep(seen, &mut watch);
            wake_due_timers();
        }
    }
}

impl Doorbell {
    /// Sleeps until there may be something to do, and has looked at the sockets then.
    fn sleep(&self, seen: u32, watch: &mut Option<Watch>) {
        let (longest, has_sockets) = (until_next_timer(), !self.sockets.is_empty());
        let has_strangers = self.bell.has_strangers();
        if !(has_sockets && has_strangers) {
            *watch = None;
        } else if watch.is_none() {
            // It fails where there are no more files: until there are, the sockets are looked at once a second.
            *watch = self.sockets.file().and_then(|file| Watch::begin(file, self.bell.clone())).ok();
        }
        let mut looked = false;
        if longest != Some(Duration::ZERO) {
            if has_sockets && !has_strangers {
                self.bell.park_elsewhere(seen, || {
                    self.sockets.wait(longest);
                    looked = true;
                });
            } else {
                self.bell.park(seen, longest);
            }
        }
        if has_sockets {
            if !looked {
                self.sockets.wait(Some(Duration::ZERO));
            }
            // Awake again: whoever is woken by this thread rings, and need not wake it.
            self.sockets.tell();
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Doorbell {
    fn execute(&self, task: F) {
        self.spawn(task);
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
    fn tasks_run_beside_the_future_and_end_with_it() {
        let doorbell = Doorbell::new().unwrap();
        let (say, mut said) = mpsc::channel(1);
        let (kept, mut dropped) = mpsc::channel::<()>(1);
        let spawner = doorbell.clone();
        // Before it runs, from another thread while it runs, and from a task.
        doorbell.spawn(async move {
            let again = spawner.clone();
            std::thread::spawn(move || {
                again.clone().spawn(async move {
                    again.spawn(async move { say.send(7).await.unwrap() });
                    panic!("a task of its own may panic");
                });
            });
            spawner.spawn(async move {
                std::future::pending::<()>().await;
                drop(kept);
            });
        });
        doorbell.block_on(async { assert_eq!(said.recv().await, Some(7)) });
        assert_eq!(dropped.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        // Too late: it is let go of.
        let (late, mut ended) = mpsc::channel::<()>(1);
        doorbell.spawn(async move { drop(late) });
        assert_eq!(ended.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }

    /// Two threads that send each other bytes, each by a socket of its own doorbell.
    fn there_and_back(turns: u32, strangers: bool) -> Duration {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _entered = runtime.enter();
        let (near, far) = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (near, listener.accept().await.unwrap().0)
        });
        let begun = Instant::now();
        let handle = runtime.handle().clone();
        let echo = std::thread::spawn(move || {
            let _entered = handle.enter();
            let doorbell = Doorbell::new().unwrap();
            let _stranger = strangers.then(|| doorbell.bell.stranger());
            doorbell.clone().block_on(async move {
                let mut socket = doorbell.socket(far).unwrap();
                let mut bytes = vec![0; 100_000];
                while let Ok(1..) = socket.read_exact(&mut bytes).await {
                    socket.write_all(&bytes).await.unwrap();
                }
            });
        });
        let doorbell = Doorbell::new().unwrap();
        let mut socket = doorbell.socket(near).unwrap();
        let (say, mut said) = mpsc::channel(1);
        // In a task, as connections are; more bytes than a socket takes at once.
        doorbell.spawn(async move {
            for turn in 0..turns {
                let bytes = vec![turn as u8; 100_000];
                let mut back = vec![0; bytes.len()];
                socket.write_all(&bytes).await.unwrap();
                socket.read_exact(&mut back).await.unwrap();
                assert_eq!(back, bytes);
            }
            socket.shutdown().await.unwrap();
            // The other end has closed, too: nothing is left to read.
            assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
            say.send(()).await.unwrap();
        });
        doorbell.block_on(async { said.recv().await.expect("all came back") });
        echo.join().unwrap();
        begun.elapsed()
    }

    #[test]
    fn sockets_wake_it_whether_or_not_other_processes_may_ring() {
        // Each of many turns would take a second if its news were missed.
        for strangers in [false, true] {
            assert!(there_and_back(200, strangers) < Duration::from_secs(50), "strangers: {strangers}");
        }
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
