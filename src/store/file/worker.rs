//! The thread that has the connection.

use crate::StoreError;
use rusqlite::Connection;
use std::fmt;
use std::fs::File;
use std::path::Path;
use tokio::sync::{mpsc, oneshot};

/// Most that is done in one transaction, and that waits for one.
const AT_ONCE: usize = 512;

/// What was asked, told how its transaction ended.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// What is asked, done in a transaction (or not, where none could begin); and why it failed, if it did.
type Work = Box<dyn FnOnce(Result<&Connection, StoreError>) -> (Answer, Option<StoreError>) + Send>;

enum Asked {
    Work(Work),
    /// All that is committed is to be on the disk.
    Flush(oneshot::Sender<Result<(), StoreError>>),
}

/// Its end of the thread. Once dropped, the thread does what was asked before and closes the file.
pub(super) struct Worker {
    asked: mpsc::Sender<Asked>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable { cause: "its thread has ended: see the log".to_owned() }
}

impl Worker {
    /// Starts the thread; the lock on the file is let go of after the connection.
    pub(super) fn start(path: &Path, connection: Connection, lock: File) -> Self {
        let (asked, asks) = mpsc::channel(AT_ONCE);
        let path = path.to_owned();
        std::thread::spawn(move || {
            serve(&connection, asks);
            if let Err((_, error)) = connection.close() {
                tracing::warn!(store = %path.display(), %error, "the store was not closed well");
            }
            drop(lock);
        });
        Self { asked }
    }

    /// Does `work`, and answers once it is committed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_then(work, |_| ()).await
    }

    /// The same; `then` happens once it is committed, whether or not anybody still waits for the answer.
    pub(super) async fn run_then<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move |file| {
            let done = file.and_then(|file| whole(file, work));
            let failed = done.as_ref().err().cloned();
            let answer: Answer = Box::new(move |committed| {
                let done = done.and_then(|done| committed.map(|()| done));
                if let Ok(done) = &done {
                    then(done);
                }
                // Whoever asked may have stopped waiting.
                let _ = answer.send(done);
            });
            (answer, failed)
        });
        self.asked.send(Asked::Work(work)).await.map_err(|_| ended())?;
        // A thread that ended meanwhile may have committed it.
        answered.await.map_err(|_| StoreError::Unknown)?
    }

    /// Returns once all that is committed is on the disk.
    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.asked.send(Asked::Flush(answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// Does all of `work`, or nothing.
fn whole<T>(file: &Connection, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
    file.execute_batch("SAVEPOINT work")?;
    let done = work(file);
    // After some failures the whole transaction is gone, and the savepoint with it.
    if !file.is_autocommit() {
        file.execute_batch(if done.is_ok() { "RELEASE work" } else { "ROLLBACK TO work; RELEASE work" })?;
    }
    done
}

fn serve(file: &Connection, mut asks: mpsc::Receiver<Asked>) {
    let mut next = None;
    while let Some(asked) = next.take().or_else(|| asks.blocking_recv()) {
        match asked {
            // Writes what the log of the database holds into the database, and both to the disk.
            Asked::Flush(answer) => {
                let flushed = file.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                let _ = answer.send(flushed.map_err(StoreError::from));
            }
            Asked::Work(first) => {
                let mut works = vec![first];
                while works.len() < AT_ONCE {
                    match asks.try_recv() {
                        Ok(Asked::Work(work)) => works.push(work),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                together(file, works);
            }
        }
    }
}

/// Does all of `works` in one transaction.
fn together(file: &Connection, works: Vec<Work>) {
    let mut answers = Vec::with_capacity(works.len());
    let mut state = file.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from);
    for work in works {
        let (answer, failed) = work(state.as_ref().map(|()| file).map_err(Clone::clone));
        answers.push(answer);
        if state.is_ok() && file.is_autocommit() {
            // The disk is full or broken: what was done before in this transaction is undone as well.
            let unsaid = || StoreError::Unavailable { cause: "its transaction was undone".to_owned() };
            state = Err(failed.unwrap_or_else(unsaid));
        }
    }
    let committed = state.and_then(|()| file.execute_batch("COMMIT").map_err(StoreError::from));
    if committed.is_err() && !file.is_autocommit() {
        // Nothing can be done where even this fails, and the next transaction says so.
        let _ = file.execute_batch("ROLLBACK");
    }
    answers.into_iter().for_each(|answer| answer(committed.clone()));
}
