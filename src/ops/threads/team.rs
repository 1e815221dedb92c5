//! Helper threads that one thread at a time has at its side.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Looks before a waiting thread offers its processor to others: some microseconds.
const LOOKS: u32 = 200;

/// What one call of [`Team::all`] asks for.
type Work<'a> = &'a (dyn Fn() + Sync);

/// The helpers, and the lock that whoever they work for holds.
#[derive(Debug)]
pub struct Team {
    board: Arc<Board>,
    turn: Mutex<()>,
    helpers: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    asleep: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What the caller and the helpers see of each other.
///
/// `state` is `call number << 32 | OPEN | helpers inside`. A helper enters a call by adding one while it is open, so it can
/// only ever see the work of a call that waits for it: the caller closes the call when its own part is done, and returns
/// when nobody is inside.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Board {
    state: AtomicU64,
    /// The open call's work, as a pointer to its [`Work`].
    work: AtomicPtr<()>,
    /// Whether a batch runs, so that calls may come at any moment.
    awake: AtomicBool,
    ended: AtomicBool,
    panicked: AtomicBool,
}

const OPEN: u64 = 1 << 31;

fn call_number(state: u64) -> u64 {
    state >> 32
}

/// Helpers inside.
fn inside(state: u64) -> u64 {
    state & (OPEN - 1)
}

/// Waits until `done`, awake.
fn wait_until(done: impl Fn() -> bool) {
    let mut looks = 0;
    while !done() {
        if looks < LOOKS {
            looks += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

impl Team {
    /// Starts the helpers.
    pub fn start(helpers: usize) -> io::Result<Self> {
        let board = Arc::new(Board::default());
        let mut team = Self { board, turn: Mutex::new(()), helpers: Vec::new() };
        for i in 1..=helpers {
            let (board, asleep) = (team.board.clone(), Arc::new(AtomicBool::new(false)));
            let flag = asleep.clone();
            let thread = std::thread::Builder::new().name(format!("maths-{i}")).spawn(move || board.help(&flag))?;
            team.helpers.push(Member { asleep, thread });
        }
        Ok(team)
    }

    /// How many there are.
    pub fn helpers(&self) -> usize {
        self.helpers.len()
    }

    /// Keeps the helpers awake, for the caller alone, until what this gives is dropped.
    pub fn wake(&self) -> Awake<'_> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.board.awake.store(true, Relaxed);
        self.rouse();
        Awake { board: &self.board, _turn: turn }
    }

    fn rouse(&self) {
        // Pairs with the fence of a helper that goes to sleep: either it sees the change of the board that was made before
        // this, or it is seen asleep.
        fence(SeqCst);
        for helper in &self.helpers {
            if helper.asleep.swap(false, Relaxed) {
                helper.thread.thread().unpark();
            }
        }
    }

    /// Calls `work` here and on every helper that comes before it is done here. The caller holds an [`Awake`].
    ///
    /// # Panics
    /// If `work` does, on whichever thread; when it has ended on all.
    pub fn all(&self, work: Work<'_>) {
        let board = &self.board;
        board.work.store((&raw const work).cast_mut().cast(), Relaxed);
        let call = call_number(board.state.load(Relaxed)).wrapping_add(1) << 32;
        board.state.store(call | OPEN, Release);
        let close = Close(board);
        work();
        drop(close);
        assert!(!board.panicked.swap(false, Relaxed), "a task panicked on another thread");
    }
}

/// Closes the open call when dropped, also by a panic: the helpers must be out before the work that they look at goes.
struct Close<'a>(&'a Board);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Relaxed);
        wait_until(|| inside(self.0.state.load(Acquire)) == 0);
    }
}

/// The helpers are awake.
pub struct Awake<'a> {
    board: &'a Board,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.board.awake.store(false, Relaxed);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.board.ended.store(true, Relaxed);
        self.rouse();
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its tasks, and has no others.
            let _ = helper.thread.join();
        }
    }
}

impl Board {
    /// A helper's life.
    fn help(&self, asleep: &AtomicBool) {
        let mut last = 0;
        loop {
            let fresh = |state: u64| state & OPEN != 0 && call_number(state) != last;
            let (awake, ended) = (|| self.awake.load(Relaxed), || self.ended.load(Relaxed));
            wait_until(|| fresh(self.state.load(Relaxed)) || !awake() || ended());
            let state = self.state.load(Relaxed);
            if fresh(state) {
                if self.state.compare_exchange(state, state + 1, Acquire, Relaxed).is_ok() {
                    last = call_number(state);
                    self.take_part();
                    self.state.fetch_sub(1, Release);
                }
            } else if ended() {
                return;
            } else if !awake() {
                asleep.store(true, Relaxed);
                // See `rouse`.
                fence(SeqCst);
                while !awake() && !ended() && asleep.load(Relaxed) {
                    std::thread::park();
                }
                asleep.store(false, Relaxed);
            }
        }
    }

    fn take_part(&self) {
        let Some(work) = NonNull::new(self.work.load(Relaxed).cast::<Work<'_>>()) else { return };
        // SAFETY: this helper is inside an open call, whose `all` stored the pointer before it opened the call (Release,
        // then Acquire by whoever enters) and does not return, nor unwind, before the helper is out (see `Close`); so the
        // reference that it points to, and the work, are alive. The work is `Sync`.
        let work = unsafe { *work.as_ptr() };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.panicked.store(true, Relaxed);
        }
    }
}
