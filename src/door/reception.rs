//! Where clients' requests are checked and tokenized on their way to the desk.

use crate::base::prng::Prng;
use crate::base::{Fault, FaultClass, Tick, TokenId};
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

    async fn checked(&self, request: &Arc<Request>) -> Result<NewRequest, Fault> {
        check::check(request)?;
        let prompt = self.tokenized(request.clone()).await?;
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

    /// The prompt's tokens. A long text takes a second or more, in which this thread's other connections would stand still.
    async fn tokenized(&self, request: Arc<Request>) -> Result<Vec<TokenId>, Fault> {
        let text = self.text.clone();
        let encoded = tokio::task::spawn_blocking(move || text.encode(&request.input)).await;
        encoded.unwrap_or_else(|error| Err(Fault::internal(format!("the tokenizer failed: {error}"))))
    }

    /// A seed for a request that names none.
    fn draw(&self) -> u64 {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    async fn submit_checked(&self, request: Request) -> Result<Answer, Fault> {
        if let Readiness::NotReady(why) = &*self.readiness.borrow() {
            return Err(Fault::new(FaultClass::Unavailable, why.clone()));
        }
        let request = Arc::new(request);
        let checked = self.checked(&request).await?;
        let prompt_tokens = checked.prompt.len() as u32;
        let (events, answer) = mpsc::channel(checked.max_tokens as usize + 2);
        let (admitted, decision) = oneshot::channel();
        let (alive, gone) = oneshot::channel();
        let submission = Submission { request: checked, stop: request.stop.clone(), events, admitted };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::Input;
    use crate::model::{BertSpec, ModelSpec};

    const TOKENIZER: &str = r#"{"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}}"#;

    fn text() -> Arc<TextModel> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
        let (layers, hidden, intermediate, heads) = (1, 8, 8, 1);
        let (vocab, type_vocab, max_positions, norm_eps) = (2, 2, 8, 1e-12);
        let spec = BertSpec { layers, hidden, intermediate, heads, vocab, type_vocab, max_positions, norm_eps };
        Arc::new(TextModel::open(dir.path(), &ModelSpec::Bert(spec)).unwrap())
    }

    #[tokio::test]
    async fn a_text_is_tokenized_beside_the_callers_task() {
        let (desk, mut submissions) = mpsc::channel(1);
        let (_ready, readiness) = watch::channel(Readiness::Ready);
        let longest = Duration::from_secs(60);
        let terms = Terms { max_model_len: 8, default_max_tokens: 1, longest, embeds: true };
        let reception = Reception::new(terms, text(), desk, readiness, (Instant::now(), 1));
        let mut submitting = reception.submit(Request::new("id", Input::Text("a b a".into())));
        assert!(futures::poll!(&mut submitting).is_pending());
        assert!(submissions.try_recv().is_err(), "the caller's task tokenized the text itself");
        let desk = async {
            let (submission, _gone) = submissions.recv().await.unwrap();
            submission.admitted.send(Err(Fault::internal("seen"))).unwrap();
            submission.request.prompt
        };
        let (answer, prompt) = tokio::join!(submitting, desk);
        assert_eq!((answer.unwrap_err().message.as_str(), prompt), ("seen", vec![0, 1, 0]));
    }
}
