//! One run of a request that this door owns.

use super::keeper::Keeper;
use super::stored::Stored;
use crate::{Answer, AnswerEvent, Intake};
use stageline_base::{Fault, FaultClass, HostTensor, Tensors, TokenId};
use stageline_core::durable::{LoggedToken, OwnerEvent, Wall};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Pause before what was not taken is handed in again.
const AGAIN: Duration = Duration::from_millis(500);
/// Events on their way to the owner.
const AHEAD: usize = 256;
/// What an encoder's answer is called in the log.
const VECTOR: &str = "embedding";

/// The right to run with no other durable request beside it.
pub(super) type Sole = OwnedRwLockWriteGuard<()>;

/// What there is to run.
pub(super) struct Running {
    pub(super) keeper: Arc<Keeper>,
    pub(super) intake: Arc<dyn Intake>,
    pub(super) stored: Result<Stored, Fault>,
    pub(super) deadline: Wall,
    /// The answer so far.
    pub(super) generated: Vec<LoggedToken>,
    /// The right to run alone, if it has that.
    pub(super) sole: Option<Sole>,
    pub(super) closing: CancellationToken,
}

/// A run under way. Dropped, it ends.
pub(super) struct Run {
    events: Receiver<OwnerEvent>,
    _task: AbortOnDropHandle<()>,
}

impl Run {
    pub(super) fn begin(running: Running) -> Self {
        let (told, events) = mpsc::channel(AHEAD);
        let task = tokio::spawn(async move {
            let last = running.run_to_its_end(&told).await;
            // Nobody listens to a run that was stopped.
            let _ = told.send(last).await;
        });
        Self { events, _task: AbortOnDropHandle::new(task) }
    }

    /// What it says next; the last is how it ended.
    pub(super) async fn next(&mut self) -> OwnerEvent {
        let broke = || OwnerEvent::RunEnded(Err(Fault::internal("the run of the request broke: see the door's log")));
        self.events.recv().await.unwrap_or_else(broke)
    }
}

impl Running {
    /// Runs it, and again where the door had no place for it; how it ends.
    async fn run_to_its_end(self, told: &Sender<OwnerEvent>) -> OwnerEvent {
        let _shared = match self.sole {
            Some(_) => None,
            None => Some(self.keeper.turns.read().await),
        };
        let stored = match &self.stored {
            Ok(stored) => stored,
            Err(fault) => return OwnerEvent::RunEnded(Err(fault.clone())),
        };
        let mut ids: Vec<TokenId> = self.generated.iter().map(|token| token.id).collect();
        loop {
            let fault = match self.run(stored, &mut ids, told).await {
                Ok(end) => return end,
                Err(fault) => fault,
            };
            match fault.class {
                // Another door goes on with it.
                FaultClass::Unavailable | FaultClass::Overloaded if self.closing.is_cancelled() => {
                    return OwnerEvent::Release;
                }
                FaultClass::Unavailable | FaultClass::Overloaded => {}
                _ => return OwnerEvent::RunEnded(Err(fault)),
            }
            tracing::debug!(call_id = stored.call_id(), %fault, "a durable request is run again");
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = self.closing.cancelled() => return OwnerEvent::Release,
            }
        }
    }

    /// Runs it once, behind what `ids` are generated already.
    async fn run(
        &self,
        stored: &Stored,
        ids: &mut Vec<TokenId>,
        told: &Sender<OwnerEvent>,
    ) -> Result<OwnerEvent, Fault> {
        let left = self.keeper.clock.until(self.deadline);
        let request = stored.to_run(self.keeper.setup.forms, self.intake.task(), left)?;
        let mut answer: Answer = self.intake.submit(crate::Request { generated: ids.clone(), ..request }).await?;
        // A run that nobody listens to is stopped.
        let tell = async |event| {
            let _ = told.send(event).await;
        };
        tell(OwnerEvent::Began(answer.prompt_tokens)).await;
        loop {
            // Without an end, what ran it has ended: the answer goes on elsewhere.
            let gone = || Fault::new(FaultClass::Unavailable, "the pipeline has stopped");
            match answer.events.recv().await.ok_or_else(gone)? {
                AnswerEvent::Token { id, observed, .. } => {
                    ids.push(id);
                    tell(OwnerEvent::Token(LoggedToken { id, observed })).await;
                }
                AnswerEvent::Vector(numbers) => {
                    let tensor = HostTensor::of_f32([numbers.len()], &numbers);
                    let tensor = tensor.ok_or_else(|| Fault::internal("a vector is none"))?;
                    tell(OwnerEvent::Answer(Tensors::one(VECTOR, tensor))).await;
                }
                AnswerEvent::Tensors(tensors) => tell(OwnerEvent::Answer(tensors)).await,
                AnswerEvent::Finished { reason, .. } => return Ok(OwnerEvent::RunEnded(Ok(reason))),
                AnswerEvent::Failed(fault) => return Err(fault),
            }
        }
    }
}
