//! A request's answer, from its log.

use super::keeper::Keeper;
use super::logs::{Entry, Unread};
use super::stored::Stored;
use crate::text::TextStream;
use crate::{Answer, AnswerEvent, Intake};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use stageline_base::{Fault, FaultClass, Gives};
use stageline_core::durable::Life;
use stageline_store::Name;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Pause before a log that could not be followed is followed again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a log may say nothing before it is looked for.
const IDLE: Duration = Duration::from_secs(10);
/// Pieces on their way to whoever reads.
const AHEAD: usize = 64;

/// Follows a log, over whatever happens to the store.
struct Follower {
    keeper: Arc<Keeper>,
    log: Name,
    records: BoxStream<'static, Result<Entry, Unread>>,
    life: Life,
}

impl Follower {
    fn new(keeper: &Arc<Keeper>, log: &Name) -> Self {
        let records = keeper.logs.follow(log, 0);
        Self { keeper: Arc::clone(keeper), log: log.clone(), records, life: Life::default() }
    }

    /// Takes the next record in.
    ///
    /// # Errors
    /// `Internal` for what cannot be read.
    async fn next(&mut self) -> Result<(), Fault> {
        loop {
            let Ok(next) = timeout(IDLE, self.records.next()).await else {
                // A log that is gone says nothing, for ever.
                if self.keeper.logs.read(&self.log, 0).await.is_ok_and(|entries| entries.is_empty()) {
                    return Err(Fault::invalid("the request has ended, and its answer is not kept any more"));
                }
                continue;
            };
            match next {
                Some(Ok((position, record))) => {
                    self.life.take(position, &record);
                    // Nobody needs the body again, for as long as the answer takes.
                    if let Some(accepted) = &mut self.life.accepted {
                        accepted.request = Bytes::new();
                    }
                    return Ok(());
                }
                Some(Err(error @ (Unread::Record(_) | Unread::Gone))) => return Err(error.fault()),
                Some(Err(Unread::Store(_))) | None => {
                    sleep(AGAIN).await;
                    self.records = self.keeper.logs.follow(&self.log, self.life.last);
                }
            }
        }
    }
}

/// What is shown of an answer.
pub(super) struct Shown {
    text: Option<TextStream>,
    gives: Gives,
    /// Tokens that were looked at, and how many the reader has already.
    tokens: usize,
    skip: usize,
    answered: bool,
}

impl Shown {
    /// What `life` adds.
    pub(super) fn more(&mut self, life: &Life) -> Vec<AnswerEvent> {
        let mut events = Vec::new();
        for token in &life.tokens[self.tokens.min(life.tokens.len())..] {
            let text = self.text.as_mut().map_or_else(String::new, |text| text.token(token.id).0);
            self.tokens += 1;
            if self.tokens > self.skip {
                events.push(AnswerEvent::Token { id: token.id, text, observed: token.observed.clone() });
            }
        }
        if let (Some(tensors), false) = (&life.answer, self.answered) {
            self.answered = true;
            events.push(AnswerEvent::of(tensors.clone(), self.gives));
        }
        match &life.ended {
            Some((Ok(reason), _)) => {
                let text = self.text.as_mut().map(TextStream::finish).unwrap_or_default();
                events.push(AnswerEvent::Finished { reason: *reason, text });
            }
            Some((Err(fault), _)) => events.push(AnswerEvent::Failed(fault.clone())),
            None => {}
        }
        events
    }
}

/// What a reader is told at a door that is about to end.
fn goes_on_elsewhere(log: &Name) -> Fault {
    let words = format!(
        "this replica is shutting down, and the request goes on: ask another one for /requests/{}, or send it again with its key",
        log.token()
    );
    Fault::new(FaultClass::Unavailable, words)
}

/// What a reader is told whose time is over before the answer's end.
fn goes_on(log: &Name) -> Fault {
    let words = format!("the answer is not whole yet, and the request goes on: ask for /requests/{}", log.token());
    Fault::new(FaultClass::DeadlineExceeded, words)
}

impl Keeper {
    /// How the answer to a request is shown, without its first `skip` tokens.
    pub(super) async fn shown(&self, stored: &Stored, intake: &dyn Intake, skip: usize) -> Result<Shown, Fault> {
        stored.is_for(&self.setup.manifest)?;
        let stop = stored.request(self.setup.forms, intake.task())?.stop;
        let text = intake.text().await?.map(|text| text.stream(stop));
        Ok(Shown { text, gives: intake.task().gives, tokens: 0, skip, answered: false })
    }

    /// The answer to the request of `log`, as its log tells it, without its first `skip` tokens, once its prompt has been read or it has
    /// ended. Where `until` passes before the end, the answer ends with words that say where the rest will be. `intake` knows the
    /// model's text.
    ///
    /// # Errors
    /// What the request ended with, if nothing of it can be shown; `DeadlineExceeded` if it has not begun by then; what
    /// refuses to read it.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        intake: &dyn Intake,
        (log, stored, skip): (&Name, &Stored, usize),
        until: Instant,
    ) -> Result<Answer, Fault> {
        let mut follower = Follower::new(self, log);
        let begins = async {
            while follower.life.prompt_tokens.is_none() && follower.life.ended.is_none() {
                follower.next().await?;
            }
            self.shown(stored, intake, skip).await
        };
        let mut shown = tokio::select! {
            begun = timeout_at(until, begins) => begun.map_err(|_| goes_on(log))??,
            () = self.leaving.cancelled() => return Err(goes_on_elsewhere(log)),
        };
        if let (Some((Err(fault), _)), true) = (&follower.life.ended, follower.life.tokens.len() <= skip) {
            return Err(fault.clone());
        }
        let prompt_tokens = follower.life.prompt_tokens.unwrap_or_default();
        let ((told, events), (alive, _)) = (mpsc::channel(AHEAD), oneshot::channel());
        let (log, leaving) = (log.clone(), self.leaving.clone());
        tokio::spawn(async move {
            loop {
                for event in shown.more(&follower.life) {
                    // Nobody reads it any more; the request goes on all the same.
                    let Ok(()) = told.send(event).await else { return };
                }
                if follower.life.ended.is_some() {
                    return;
                }
                let next = tokio::select! {
                    next = timeout_at(until, follower.next()) => next,
                    () = told.closed() => return,
                    () = leaving.cancelled() => Ok(Err(goes_on_elsewhere(&log))),
                };
                let fault = match next {
                    Ok(Ok(())) => continue,
                    Ok(Err(fault)) => fault,
                    Err(_) => goes_on(&log),
                };
                let _ = told.send(AnswerEvent::Failed(fault)).await;
                return;
            }
        });
        Ok(Answer { prompt_tokens, events, alive })
    }
}
