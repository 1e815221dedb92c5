//! Where clients' requests are checked and tokenized on their way to the desk.

use crate::check;
use crate::desk::Submission;
use crate::request::{Answer, Input, Intake, Readiness, Request};
use crate::text::TextModel;
use crate::workroom::Workroom;
use futures::future::BoxFuture;
use stageline_base::prng::Prng;
use stageline_base::{Fault, FaultClass, Task, Tick, TokenId, Trace};
use stageline_core::Work;
use stageline_core::requests::NewRequest;
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
    pub max_deadline: Duration,
    /// Whether the model encodes.
    pub task: Task,
    /// The manifest's digest: 64 lower-case hexadecimal digits.
    pub manifest: String,
}

/// See the module.
pub struct Reception {
    terms: Terms,
    text: Arc<TextModel>,
    desk: mpsc::Sender<(Submission, oneshot::Receiver<()>)>,
    readiness: watch::Receiver<Readiness>,
    started: Instant,
    seeds: Mutex<Prng>,
    workroom: Workroom,
}

/// Bytes of text, or of ids, that are to be read.
fn size(input: &Input) -> usize {
    match input {
        Input::Text(text) => text.len(),
        Input::Chat(conversation) => conversation.bytes(),
        Input::Tokens(ids) => ids.len() * size_of::<TokenId>(),
    }
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
        Self { terms, text, desk, readiness, started, seeds, workroom: Workroom::new() }
    }

    async fn checked(&self, request: &Arc<Request>, deadline: Tick) -> Result<NewRequest, Fault> {
        check::check(request)?;
        check::check_manifest(request.manifest.as_deref(), &self.terms.manifest)?;
        let longest = self.terms.max_model_len;
        self.text.fits(&request.input, longest as usize)?;
        let prompt = self.tokenized(request.clone()).await?;
        let length = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let room = longest.saturating_sub(length);
        if length > longest || (room == 0 && self.terms.task.generates()) {
            return Err(Fault::invalid(format!(
                "the prompt has {length} tokens and the pipeline takes {longest} in all: shorten it"
            )));
        }
        let work = Work::of(self.terms.task, request.sampling.or(self.draw()));
        let max_tokens = match request.max_tokens {
            Some(asked) if asked > room && self.terms.task.generates() => {
                return Err(Fault::invalid(format!(
                    "max_tokens is {asked}, but beside the prompt's {length} tokens the pipeline takes {room}: lower it"
                )));
            }
            asked => asked.unwrap_or(self.terms.default_max_tokens.min(room)),
        };
        let trace = request.trace.unwrap_or_else(|| {
            let [high, low, parent] = [(); 3].map(|()| self.draw());
            Trace::begun((u128::from(high) << 64) | u128::from(low), parent)
        });
        let (call_id, input, generated) = (request.call_id.clone(), stageline_core::Input::Tokens(prompt), Vec::new());
        Ok(NewRequest { call_id, trace, work, input, generated, max_tokens, deadline })
    }

    /// The prompt's tokens. A long text takes a second or more, in which this thread's other connections would stand still.
    async fn tokenized(&self, request: Arc<Request>) -> Result<Vec<TokenId>, Fault> {
        let (text, most) = (self.text.clone(), self.terms.max_model_len as usize);
        self.workroom.done(size(&request.input), move || text.encode(&request.input, most)).await?
    }

    /// A random number: a seed for a request that names none, and so on.
    fn draw(&self) -> u64 {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    async fn submit_checked(&self, request: Request) -> Result<Answer, Fault> {
        if let Readiness::NotReady(why) = &*self.readiness.borrow() {
            return Err(Fault::new(FaultClass::Unavailable, why.clone()));
        }
        let time = request.deadline.unwrap_or(self.terms.max_deadline).min(self.terms.max_deadline);
        let deadline = Tick(self.started.elapsed().as_micros() as u64) + time;
        let request = Arc::new(request);
        let late = || Fault::new(FaultClass::DeadlineExceeded, "the deadline passed before the prompt was read");
        let checked = tokio::time::timeout(time, self.checked(&request, deadline)).await.map_err(|_| late())??;
        let prompt_tokens = checked.input.tokens() as u32;
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

    fn task(&self) -> Task {
        self.terms.task
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChatMessage, Conversation};
    use stageline_model::{BertSpec, ModelSpec};
    use stageline_shard::Files;

    const TOKENIZER: &str = r#"{"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}}"#;

    fn text() -> Arc<TextModel> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
        let (layers, hidden, intermediate, heads) = (1, 8, 8, 1);
        let (vocab, type_vocab, max_positions, norm_eps) = (2, 2, 8, 1e-12);
        let length_one = true;
        let spec =
            BertSpec { layers, hidden, intermediate, heads, vocab, type_vocab, max_positions, norm_eps, length_one };
        let files = Files::of_model(dir.path()).unwrap();
        Arc::new(TextModel::open(&files, &ModelSpec::from(spec)).unwrap())
    }

    #[tokio::test]
    async fn a_text_is_tokenized_beside_the_callers_task() {
        let (desk, mut submissions) = mpsc::channel(1);
        let (_ready, readiness) = watch::channel(Readiness::Ready);
        let max_deadline = Duration::from_secs(60);
        let terms = Terms {
            max_model_len: 8,
            default_max_tokens: 1,
            max_deadline,
            task: Task::EMBED,
            manifest: "0".repeat(64),
        };
        let reception = Reception::new(terms, text(), desk, readiness, (Instant::now(), 1));
        let mut submitting = reception.submit(Request::new("id", Input::Text("a b a".into())));
        assert!(futures::poll!(&mut submitting).is_pending());
        assert!(submissions.try_recv().is_err(), "the caller's task tokenized the text itself");
        let desk = async {
            let (submission, _gone) = submissions.recv().await.unwrap();
            submission.admitted.send(Err(Fault::internal("seen"))).unwrap();
            submission.request.input
        };
        let (answer, prompt) = tokio::join!(submitting, desk);
        assert_eq!(
            (answer.unwrap_err().message.as_str(), prompt),
            ("seen", stageline_core::Input::Tokens(vec![0, 1, 0]))
        );
    }

    /// A reception of a model of 8 tokens.
    fn reception(desk: mpsc::Sender<(Submission, oneshot::Receiver<()>)>) -> Reception {
        let (_ready, readiness) = watch::channel(Readiness::Ready);
        let (max_deadline, manifest) = (Duration::from_secs(60), String::new());
        let terms = Terms { max_model_len: 8, default_max_tokens: 1, max_deadline, task: Task::EMBED, manifest };
        Reception::new(terms, text(), desk, readiness, (Instant::now(), 1))
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused_before_it_is_read() {
        let (desk, _submissions) = mpsc::channel(1);
        let reception = reception(desk);
        let long = "a ".repeat(1 << 20);
        let chat = Conversation::of(vec![ChatMessage::new("user", long.repeat(2))]);
        for input in [Input::Text(long), Input::Chat(chat)] {
            let mut submitting = reception.submit(Request::new("id", input));
            // At once: it never got to the workroom.
            let std::task::Poll::Ready(Err(fault)) = futures::poll!(&mut submitting) else { panic!("it was read") };
            assert!(fault.message.contains("shorten it"), "{fault}");
        }
        let tokens = Request::new("id", Input::Tokens(vec![0; 9]));
        assert!(reception.submit(tokens).await.unwrap_err().message.contains("9 tokens"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_wait_to_be_read() {
        let (desk, _submissions) = mpsc::channel(1);
        let reception = reception(desk);
        // Both threads are held until the test lets go of the other ends.
        let hold = || {
            let (end, ends) = std::sync::mpsc::sync_channel::<()>(1);
            (end, Box::pin(reception.workroom.done(1, move || ends.recv())))
        };
        let ((_end, mut held), (_other_end, mut held_too)) = (hold(), hold());
        assert!(futures::poll!(&mut held).is_pending() && futures::poll!(&mut held_too).is_pending());
        let request = Request { deadline: Some(Duration::from_secs(2)), ..Request::new("id", Input::Text("a".into())) };
        assert_eq!(reception.submit(request).await.unwrap_err().class, FaultClass::DeadlineExceeded);
    }
}
