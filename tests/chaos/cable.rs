//! A TCP connection with somebody in between, who cuts it, holds what comes, or is slow.

use crate::clock::due;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// They pass.
    Open,
    /// There are no connections.
    Cut,
    /// Connections stay, and nothing passes until the mode changes: then all does, as TCP sends again what was lost.
    Hole,
    /// Each piece is late.
    Slow(Duration),
}

/// What faults have come to, so that a test can tell that they were some.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that were cut, and those that found nobody.
    pub cut: AtomicU64,
    /// Pieces that were held.
    pub held: AtomicU64,
    /// Pieces that were late.
    pub late: AtomicU64,
}

/// A way to a server, by an address of its own. Dropped, its connections end.
pub struct Cable {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    task: AbortHandle,
}

impl Cable {
    /// To whoever listens at `to`, then or later.
    pub async fn to(to: SocketAddr, counts: Arc<Counts>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (mode, seen) = watch::channel(Mode::Open);
        let task = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                if *seen.borrow() == Mode::Cut {
                    counts.cut.fetch_add(1, Relaxed);
                    continue;
                }
                tokio::spawn(carry(near, to, seen.clone(), counts.clone()));
            }
        });
        Self { address, mode, task: task.abort_handle() }
    }

    /// Where it is entered.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
        self.set(Mode::Cut);
    }
}

/// Carries bytes both ways until one side ends or the connection is cut; both ends are then closed.
async fn carry(near: TcpStream, to: SocketAddr, mode: watch::Receiver<Mode>, counts: Arc<Counts>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let nodelay = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
    if nodelay.is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let mut seen = mode.clone();
    tokio::select! {
        () = pass(near_in, far_out, mode.clone(), &counts) => {}
        () = pass(far_in, near_out, mode, &counts) => {}
        _ = seen.wait_for(|mode| *mode == Mode::Cut) => {
            counts.cut.fetch_add(1, Relaxed);
        }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>, counts: &Counts) {
    let mut piece = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let now = *mode.borrow();
        match now {
            Mode::Slow(time) => {
                counts.late.fetch_add(1, Relaxed);
                due(time).await;
            }
            Mode::Hole => {
                counts.held.fetch_add(1, Relaxed);
            }
            Mode::Open | Mode::Cut => {}
        }
        // At once, unless nothing passes.
        if mode.wait_for(|mode| *mode != Mode::Hole).await.is_err() || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
