//! TCP connections of a pump's thread, which waits for them itself: a packet that came in by way of a runtime's thread would
//! cost two wakes, one of that thread and one of this.

use futures::task::AtomicWaker;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll as Polled, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whoever rings, not a connection.
const RUNG: Token = Token(0);
/// Events taken at once.
const AT_ONCE: usize = 64;
/// Bytes read at once.
const READ_BYTES: usize = 128 << 10;

/// The connections of one thread.
pub(super) struct Sockets {
    registry: Registry,
    open: Mutex<Open>,
    poll: Mutex<(Poll, Events)>,
}

#[derive(Default)]
struct Open {
    sides: HashMap<Token, Arc<Sides>>,
    /// The last number that was given away.
    last: usize,
}

impl Sockets {
    /// None yet, and what ends a [`Sockets::wait`].
    ///
    /// # Errors
    /// The system has no file for them.
    pub(super) fn new() -> io::Result<(Self, mio::Waker)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = mio::Waker::new(&registry, RUNG)?;
        let poll = Mutex::new((poll, Events::with_capacity(AT_ONCE)));
        Ok((Self { registry, open: Mutex::default(), poll }, waker))
    }

    /// Takes a connection that does not block over.
    ///
    /// # Errors
    /// The system does not watch it.
    pub(super) fn socket(self: &Arc<Self>, stream: std::net::TcpStream) -> io::Result<Socket> {
        let mut stream = TcpStream::from_std(stream);
        let mut open = self.open();
        open.last += 1;
        let token = Token(open.last);
        self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let sides = Arc::new(Sides::default());
        open.sides.insert(token, sides.clone());
        drop(open);
        Ok(Socket { stream, sides, token, home: self.clone() })
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.open().sides.is_empty()
    }

    /// A file that is readable when there is something to look at.
    ///
    /// # Errors
    /// The system has no number for it.
    pub(super) fn file(&self) -> io::Result<OwnedFd> {
        self.registry.as_fd().try_clone_to_owned()
    }

    /// Sleeps until a connection has something or the waker is woken, at most `longest`. What it is, [`Sockets::tell`] tells.
    pub(super) fn wait(&self, longest: Option<Duration>) {
        let (poll, events) = &mut *self.lock();
        // Interrupted, there is nothing to tell, and whoever waits has another turn.
        if poll.poll(events, longest).is_err() {
            events.clear();
        }
    }

    /// Wakes who waits for what the last [`Sockets::wait`] has found.
    pub(super) fn tell(&self) {
        let (found, open) = (self.lock(), self.open());
        for event in &found.1 {
            let Some(sides) = open.sides.get(&event.token()) else { continue };
            let broken = event.is_error();
            if event.is_readable() || event.is_read_closed() || broken {
                sides.read.news(event.is_read_closed() || broken);
            }
            if event.is_writable() || event.is_write_closed() || broken {
                sides.write.news(event.is_write_closed() || broken);
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing under this lock leaves the table half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, (Poll, Events)> {
        self.poll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two directions of a connection.
#[derive(Default)]
struct Sides {
    read: Side,
    write: Side,
}

/// What is known of one direction. The system tells only of changes: what has been told and not been used up must be kept.
struct Side {
    /// Whether it may go on without waiting.
    ready: AtomicBool,
    /// The last change there will ever be has been told.
    over: AtomicBool,
    waker: AtomicWaker,
}

impl Default for Side {
    /// As long as nothing was tried, it may go on.
    fn default() -> Self {
        Self { ready: AtomicBool::new(true), over: AtomicBool::new(false), waker: AtomicWaker::new() }
    }
}

impl Side {
    fn news(&self, over: bool) {
        if over {
            self.over.store(true, Release);
        }
        self.ready.store(true, Release);
        self.waker.wake();
    }

    fn poll_ready(&self, turn: &mut Context<'_>) -> Polled<()> {
        if !self.ready.load(Acquire) {
            self.waker.register(turn.waker());
            // Told in between, nobody would wake it.
            if !self.ready.load(Acquire) {
                return Polled::Pending;
            }
        }
        Polled::Ready(())
    }

    /// Tries `go`, which may take up to `room` bytes, whenever the system may let it.
    fn poll(
        &self,
        turn: &mut Context<'_>,
        room: usize,
        mut go: impl FnMut() -> io::Result<usize>,
    ) -> Polled<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(turn));
            // Before the call: what the system tells from here on stays told.
            self.ready.store(self.over.load(Acquire), Release);
            match go() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.over.load(Acquire) {
                        return Polled::Ready(Err(error));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => self.ready.store(true, Release),
                done => {
                    // Less than there was room for: that was all, and the next change will be told.
                    if !matches!(done, Ok(count) if count < room) {
                        self.ready.store(true, Release);
                    }
                    return Polled::Ready(done);
                }
            }
        }
    }
}

/// A connection of the thread that its [`Sockets`] belong to.
pub(super) struct Socket {
    stream: TcpStream,
    sides: Arc<Sides>,
    token: Token,
    home: Arc<Sockets>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.home.open().sides.remove(&self.token);
        // Closed a moment later, the system forgets it anyway.
        let _ = self.home.registry.deregister(&mut self.stream);
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, turn: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Polled<io::Result<()>> {
        // Never more than is made clean for it: room for a frame of 1 MB would be zeroed anew for each of its packets.
        let room = buffer.remaining().min(READ_BYTES);
        let bytes = buffer.initialize_unfilled_to(room);
        let count = ready!(self.sides.read.poll(turn, room, || (&self.stream).read(bytes)))?;
        buffer.advance(count);
        Polled::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, turn: &mut Context<'_>, bytes: &[u8]) -> Polled<io::Result<usize>> {
        self.sides.write.poll(turn, bytes.len(), || (&self.stream).write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        turn: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Polled<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum();
        self.sides.write.poll(turn, length, || (&self.stream).write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled<io::Result<()>> {
        Polled::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled<io::Result<()>> {
        Polled::Ready(self.stream.shutdown(Shutdown::Write))
    }
}
