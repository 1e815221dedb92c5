//! For a thread that must sleep on its bell: a runtime's task that rings it when a file has something to read.

use super::Bell;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// See the module. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch(JoinHandle<()>);

impl Watch {
    /// Rings `bell` each time that `file` gets something to read. Only within a runtime.
    ///
    /// # Errors
    /// The system does not watch the file.
    pub(crate) fn begin(file: OwnedFd, bell: Arc<Bell>) -> Result<Self> {
        // SAFETY: what watches the file owns it.
        let watched = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?;
        Ok(Self(tokio::spawn(async move {
            while let Ok(mut news) = watched.readable().await {
                bell.ring();
                news.clear_ready();
            }
        })))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}
