//! Where clients' requests are checked and tokenized on their way to the desk.

use crate::base::prng::Prng;
use crate::base::{Fault, FaultClass, Tick};
use crate::core::Work;
use crate::core::requests::NewRequest;
use crate::door::check;
use crate::door::desk::Submission;
use crate::door::request::{Answer, Intake, Readiness, Request};
use crate::door::text::TextModel;
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// What requests are measured against.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Longest sequence, prompt and answer together.
    pub max_model_len: u32,
    /// `max_tokens` of a request that names none.
    pub default_max_tokens: u32,
    /// Deadline of a request that names none, and the longest that one may name.
    pub longest: Duration,
    /// Whether the model encodes.
    pub embeds: bool,
}

/// See the module.
pub struct Reception {
    terms: Terms,
    text: Arc<TextModel>,
    desk: mpsc::Sender<(Submission, oneshot::Receiver<()>)>,
    readiness: watch::Receiver<Readiness>,
    started: Instant,
    seeds: Mutex<Prng>,
}

impl Reception {
    /// `started` is what ticks are counted from.
    pub fn new(
        terms: Terms,
        text: Arc<TextModel>,
        desk: mpsc::Sender<(Submission, oneshot::Receiver<()>)>,
        readiness: watch::Receiver<Readiness>,
        (started, seed): (Instant, u64),
    ) -> Self {
        let seeds = Mutex::new(Prng::new(seed));
        Self { terms, text, desk, readiness, started, seeds }
    }

    fn checked(&self, request: &Request) -> Result<NewRequest, Fault> {
        check::check(request)?;
        let prompt = self.text.encode(&request.input)?;
        let longest = self.terms.max_model_len;
        let length = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let room = longest.saturating_sub(length);
        if length > longest || (room == 0 && !self.terms.embeds) {
            return Err(Fault::invalid(format!(
                "the prompt has {length} tokens and the pipeline takes {longest} in all: shorten it"
            )));
        }
        let work = if self.terms.embeds { Work::Embed } else { Work::Generate(check::sampling(request, self.draw())) };
        let max_tokens = match request.max_tokens {
            Some(asked) if asked > room && !self.terms.embeds => {
                return Err(Fault::invalid(format!(
                    "max_tokens is {asked}, but beside the prompt's {length} tokens the pipeline takes {room}: lower it"
                )));
            }
            asked => asked.unwrap_or(self.terms.default_max_tokens.min(room)),
        };
        let time = request.deadline.unwrap_or(self.terms.longest).min(self.terms.longest);
        let now = Tick(self.started.elapsed().as_micros() as u64);
        Ok(NewRequest { call_id: request.call_id.clone(), work, prompt, max_tokens, deadline: now + time })
    }

    /// A seed for a request that names none.
    fn draw(&self) -> u64 {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    async fn submit_checked(&self, request: Request) -> Result<Answer, Fault> {
        if let Readiness::NotReady(why) = &*self.readiness.borrow() {
            return Err(Fault::new(FaultClass::Unavailable, why.clone()));
        }
        let checked = self.checked(&request)?;
        let prompt_tokens = checked.prompt.len() as u32;
        let (events, answer) = mpsc::channel(checked.max_tokens as usize + 2);
        let (admitted, decision) = oneshot::channel();
        let (alive, gone) = oneshot::channel();
        let submission = Submission { request: checked, stop: request.stop, events, admitted };
        let closed = || Fault::new(FaultClass::Unavailable, "the pipeline is shutting down: send the request again");
        self.desk.send((submission, gone)).await.map_err(|_| closed())?;
        decision.await.map_err(|_| closed())??;
        Ok(Answer { prompt_tokens, events: answer, alive })
    }
}

impl Intake for Reception {
    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Answer, Fault>> {
        Box::pin(self.submit_checked(request))
    }

    fn readiness(&self) -> Readiness {
        self.readiness.borrow().clone()
    }

    fn embeds(&self) -> bool {
        self.terms.embeds
    }
}
