//! A request's answer, from its log.

use super::keeper::Keeper;
use super::logs::{Entry, Unread, unread_fault};
use super::stored::Stored;
use crate::text::TextStream;
use crate::{Answer, AnswerEvent, Intake};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use stageline_base::{Fault, FaultClass, Gives};
use stageline_core::durable::{Accepted, Life, Logged};
use stageline_store::Name;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Pause before a log that could not be followed is followed again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a log may say nothing before it is looked for.
const IDLE: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(10) };
/// Pieces on their way to whoever reads.
const AHEAD: usize = 64;

/// Follows a log, over whatever happens to the store.
struct Follower {
    keeper: Arc<Keeper>,
    log: Name,
    records: BoxStream<'static, Result<Entry, Unread>>,
    life: Life,
    /// Which request it is, once that was read.
    which: Option<[u8; 32]>,
}

impl Follower {
    fn new(keeper: &Arc<Keeper>, log: &Name) -> Self {
        let records = keeper.logs.follow(log, 0);
        Self { keeper: Arc::clone(keeper), log: log.clone(), records, life: Life::default(), which: None }
    }

    /// Follows it from its beginning: it does not hold any more what was read of it.
    fn begin_anew(&mut self) {
        self.life = Life::default();
        self.records = self.keeper.logs.follow(&self.log, 0);
    }

    /// Takes the next record in.
    ///
    /// # Errors
    /// `Internal` for what cannot be read.
    async fn next(&mut self) -> Result<(), Fault> {
        loop {
            let Ok(next) = timeout(IDLE, self.records.next()).await else {
                // A log that is gone says nothing, for ever; nor does one for long whose end was lost.
                match self.keeper.logs.read(&self.log, 0).await.map(|entries| entries.last().map(|(last, _)| *last)) {
                    Ok(None) => return Err(not_kept()),
                    Ok(Some(last)) if last < self.life.last => self.begin_anew(),
                    Ok(_) | Err(_) => {}
                }
                continue;
            };
            match next {
                Some(Ok((position, record))) => {
                    if let Some(Logged::Accepted(Accepted { request, .. })) = record.first() {
                        let which = Stored::decode(request)?.identity();
                        // Where a store was lost, the same key begins another request: its answer is another.
                        if *self.which.get_or_insert(which) != which {
                            return Err(not_kept());
                        }
                    }
                    self.life.take(position, &record);
                    // Nobody needs the body again, for as long as the answer takes.
                    if let Some(accepted) = &mut self.life.accepted {
                        accepted.request = Bytes::new();
                    }
                    return Ok(());
                }
                Some(Err(error @ (Unread::Record(_) | Unread::Gone))) => return Err(unread_fault(&error)),
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

/// What a reader is told whose request is gone.
fn not_kept() -> Fault {
    Fault::invalid("the request has ended, and its answer is not kept any more")
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

#[cfg(test)]
mod tests {
    use super::super::sweeping::tests::keeper;
    use super::*;
    use stageline_core::durable::Wall;
    use stageline_store::{MemoryStore, Store};

    fn accepted(stored: &Stored) -> Logged {
        Logged::Accepted(Accepted { request: stored.encode(), deadline: Wall(60_000), callback: false })
    }

    async fn next(follower: &mut Follower) -> Result<(), Fault> {
        timeout(Duration::from_secs(20), follower.next()).await.expect("what there is to read")
    }

    #[tokio::test]
    async fn a_log_whose_end_was_lost_is_followed_from_its_beginning() {
        let store = Arc::new(MemoryStore::new(Duration::from_secs(3), 100));
        let (keeper, log) = (keeper(store.clone()), Name::new("request", "a").unwrap());
        let stored = Stored::empty();
        let last = keeper.logs.append(&log, 0, &[accepted(&stored)]).await.unwrap();
        let mut follower = Follower::new(&keeper, &log);
        next(&mut follower).await.unwrap();
        // It had more, once.
        follower.life.last = last + 400;
        follower.records = keeper.logs.follow(&log, last + 400);
        next(&mut follower).await.unwrap();
        assert_eq!(follower.life.last, last);
        // Tried anew it is the same request.
        let again = keeper.logs.append(&log, last, &[accepted(&stored.accepted_anew(Wall(7)))]).await.unwrap();
        next(&mut follower).await.unwrap();
        assert_eq!(follower.life.last, again);
        store.remove(&log).await.unwrap();
        assert_eq!(next(&mut follower).await.unwrap_err(), not_kept());
    }
}
