//! Where clients' requests are checked and tokenized on their way to the desk.

use crate::Intake;
use crate::check;
use crate::desk::Submission;
use crate::request::{Answer, AnswerEvent, FinishReason, Input, Readiness, Request};
use crate::text::{TextModel, TextStream};
use crate::workroom::{SHORT_BYTES, Workroom};
use futures::future::BoxFuture;
use stageline_base::prng::Prng;
use stageline_base::{Border, Fault, FaultClass, Task, Tensors, Tick, TokenId, Trace};
use stageline_core::requests::NewRequest;
use stageline_core::{Input as Brought, Work};
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
    /// What the model does.
    pub task: Task,
    /// What a request brings: what crosses in front of stage 0.
    pub takes: Border,
    /// The manifest's digest: 64 lower-case hexadecimal digits.
    pub manifest: String,
}

/// See the module.
pub struct Reception {
    terms: Terms,
    /// Where what requests bring is text or tokens.
    text: Option<Arc<TextModel>>,
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
        Input::Tensors(tensors) => tensors.bytes() as usize,
    }
}

impl Reception {
    /// `started` is what ticks are counted from.
    pub fn new(
        terms: Terms,
        text: Option<Arc<TextModel>>,
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
        let input = self.input(request).await?;
        let length = u32::try_from(input.tokens()).unwrap_or(u32::MAX);
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
        let (call_id, generated, patient) = (request.call_id.clone(), request.generated.clone(), request.patient);
        Ok(NewRequest { call_id, trace, work, input, generated, max_tokens, deadline, patient })
    }

    /// What the request brings, as the first stage takes it.
    async fn input(&self, request: &Arc<Request>) -> Result<Brought, Fault> {
        let takes = &self.terms.takes;
        match (&self.text, &request.input) {
            (Some(text), Input::Tensors(tensors)) if takes.is_tokens() => {
                let ids = self.arranged(tensors)?;
                let ids = ids.iter().flat_map(|ids| ids.tensor.words()).collect();
                let request = Request { input: Input::Tokens(ids), ..request.as_ref().clone() };
                self.tokenized(text, Arc::new(request)).await.map(Brought::Tokens)
            }
            (Some(text), _) => self.tokenized(text, request.clone()).await.map(Brought::Tokens),
            (None, Input::Tensors(tensors)) => self.arranged(tensors).map(Brought::Tensors),
            (None, _) => Err(Fault::invalid(format!("this pipeline takes tensors, not text: {takes} (gRPC, Infer)"))),
        }
    }

    /// Tensors in the order in which they cross, if they are what a request may bring.
    fn arranged(&self, tensors: &Tensors) -> Result<Tensors, Fault> {
        let (takes, most) = (&self.terms.takes, u64::from(self.terms.max_model_len));
        match takes.brought(tensors.clone()) {
            Some((rows, set)) if (1..=most).contains(&rows) => Ok(set),
            Some((rows, _)) => Err(Fault::invalid(format!("`inputs` may have 1 to {most} rows, not {rows}"))),
            None => Err(Fault::invalid(format!("`inputs` must be {takes}"))),
        }
    }

    /// The prompt's tokens. A long text takes a second or more, in which this thread's other connections would stand still.
    async fn tokenized(&self, text: &Arc<TextModel>, request: Arc<Request>) -> Result<Vec<TokenId>, Fault> {
        let (text, most) = (text.clone(), self.terms.max_model_len as usize);
        text.fits(&request.input, most)?;
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
        let longest = if request.patient { Duration::MAX } else { self.terms.max_deadline };
        let time = request.deadline.unwrap_or(self.terms.max_deadline).min(longest);
        let deadline = Tick(self.started.elapsed().as_micros() as u64) + time;
        let request = Arc::new(request);
        let late = || Fault::new(FaultClass::DeadlineExceeded, "the deadline passed before the prompt was read");
        let checked = tokio::time::timeout(time, self.checked(&request, deadline)).await.map_err(|_| late())??;
        let prompt_tokens = checked.input.tokens() as u32;
        let (events, answer) = mpsc::channel(checked.max_tokens as usize + 2);
        let (admitted, decision) = oneshot::channel();
        let (alive, gone) = oneshot::channel();
        let mut text = self.text.as_ref().map(|text| text.stream(request.stop.clone()));
        if let Some(reason) = begun(&checked, text.as_mut()) {
            // The channel is empty.
            let _ = events.try_send(AnswerEvent::Finished { reason, text: String::new() });
            return Ok(Answer { prompt_tokens, events: answer, alive });
        }
        let submission = Submission { request: checked, text, events, admitted };
        let closed = || Fault::new(FaultClass::Unavailable, "the pipeline is shutting down: send the request again");
        self.desk.send((submission, gone)).await.map_err(|_| closed())?;
        decision.await.map_err(|_| closed())??;
        Ok(Answer { prompt_tokens, events: answer, alive })
    }
}

/// Takes up `text` behind what is generated already; why the answer ends there, if it does.
fn begun(request: &NewRequest, mut text: Option<&mut TextStream>) -> Option<FinishReason> {
    let (generated, most) = (&request.generated, request.max_tokens as usize);
    let ends = generated.iter().fold(None, |ends: Option<FinishReason>, id| {
        let end = text.as_mut().and_then(|text| text.token(*id).1);
        ends.or(end)
    });
    let whole = !generated.is_empty() && generated.len() >= most;
    ends.or(whole.then_some(FinishReason::Length))
}

impl Intake for Reception {
    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Answer, Fault>> {
        Box::pin(self.submit_checked(request))
    }

    fn check<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async {
            let is_text = matches!(request.input, Input::Text(_) | Input::Chat(_));
            if is_text && size(&request.input) > SHORT_BYTES {
                // To read it twice takes long: what is too long by its bytes is refused, and the rest when it is run.
                check::check(request)?;
                check::check_manifest(request.manifest.as_deref(), &self.terms.manifest)?;
                let most = self.terms.max_model_len as usize;
                return self.text.as_ref().map_or(Ok(()), |text| text.fits(&request.input, most));
            }
            self.checked(&Arc::new(request.clone()), Tick(0)).await.map(drop)
        })
    }

    fn task(&self) -> Task {
        self.terms.task
    }

    fn text(&self) -> BoxFuture<'_, Result<Option<Arc<TextModel>>, Fault>> {
        Box::pin(std::future::ready(Ok(self.text.clone())))
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
            takes: Border::tokens(),
            manifest: "0".repeat(64),
        };
        let reception = Reception::new(terms, Some(text()), desk, readiness, (Instant::now(), 1));
        // Both threads have other work, or they could be done before the caller looks.
        let (goes_on, waits) = std::sync::mpsc::sync_channel::<()>(0);
        let waits = Arc::new(Mutex::new(waits));
        let (began, mut begun) = mpsc::channel(2);
        let other = || {
            let (began, waits) = (began.clone(), waits.clone());
            Box::pin(reception.workroom.done(1, move || {
                began.blocking_send(()).unwrap();
                waits.lock().unwrap_or_else(PoisonError::into_inner).recv().unwrap_err();
            }))
        };
        let (mut first, mut second) = (other(), other());
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        begun.recv().await.unwrap();
        begun.recv().await.unwrap();
        let mut submitting = reception.submit(Request::new("id", Input::Text("a b a".into())));
        assert!(futures::poll!(&mut submitting).is_pending());
        assert!(submissions.try_recv().is_err(), "the caller's task tokenized the text itself");
        drop(goes_on);
        let desk = async {
            let (submission, _gone) = submissions.recv().await.unwrap();
            submission.admitted.send(Err(Fault::internal("seen"))).unwrap();
            submission.request.input
        };
        let (answer, prompt) = tokio::join!(submitting, desk);
        assert_eq!((answer.unwrap_err().message.as_str(), prompt), ("seen", Brought::Tokens(vec![0, 1, 0])));
    }

    /// A reception of a model of 8 tokens.
    fn reception(desk: mpsc::Sender<(Submission, oneshot::Receiver<()>)>) -> Reception {
        let (_ready, readiness) = watch::channel(Readiness::Ready);
        let (max_deadline, manifest) = (Duration::from_secs(60), String::new());
        let (task, takes) = (Task::EMBED, Border::tokens());
        let terms = Terms { max_model_len: 8, default_max_tokens: 1, max_deadline, task, takes, manifest };
        Reception::new(terms, Some(text()), desk, readiness, (Instant::now(), 1))
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
