//! One request from its head to the end of its answer, the same whichever API it came by: its id and its log lines, the place that it
//! takes and until when, and what is counted of it.

use crate::http::visit::Visit;
use crate::site::Site;
use crate::{Answer, AnswerEvent, Intake, Request};
use axum::http::HeaderMap;
use stageline_base::{Fault, FaultClass, Trace};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Span, info, info_span, warn};

/// A request while it is served. Dropped before it is ended, it was the client that went away.
pub(crate) struct Call {
    pub id: String,
    /// Its id among durable requests, once it is kept.
    pub request: Option<String>,
    pub trace: Trace,
    /// Whose it is; nobody's where the door asks for no keys.
    who: Result<Arc<str>, Fault>,
    pub span: Span,
    site: Arc<Site>,
    /// When its head came: what all its times count from, as its client counts them.
    came: Instant,
    prompt_tokens: u32,
    /// Tokens handed out so far.
    answer_tokens: u64,
    /// How it ended: well, or by a fault of that class.
    end: Option<Option<FaultClass>>,
}

impl Call {
    /// The request whose head, with these `headers`, `came`.
    pub(crate) fn new(site: &Arc<Site>, headers: &HeaderMap, came: Instant) -> Self {
        let (id, trace) = (site.call_ids.of(headers), site.call_ids.trace_of(headers));
        let span = info_span!("request", call_id = %id, traceparent = %trace);
        site.setup.metrics.door.requests_in_flight.inc();
        let who = site.principal(headers);
        let (site, request) = (Arc::clone(site), None);
        Self { id, request, trace, who, span, site, came, prompt_tokens: 0, answer_tokens: 0, end: None }
    }

    /// Whose it is.
    ///
    /// # Errors
    /// `Unauthenticated` if the door asks for keys, and it has none that is known.
    pub(crate) fn principal(&self) -> Result<&str, Fault> {
        self.who.as_deref().map_err(Clone::clone)
    }

    /// When it has taken `time`.
    pub(crate) fn after(&self, time: Duration) -> Instant {
        self.came + time
    }

    /// Takes a place among the requests at once, until its answer is delivered or `until`. Its message has arrived: one that is slow
    /// to arrive holds none.
    ///
    /// # Errors
    /// `Overloaded` if there is none.
    pub(crate) fn takes_place(&self, until: Instant) -> Result<(), Fault> {
        Visit::current().stays(until, self.site.place()?)
    }

    /// What is left of the `time` that it has, after which its place is another's.
    ///
    /// # Errors
    /// `DeadlineExceeded` if nothing is.
    pub(crate) fn left(&self, time: Duration) -> Result<Duration, Fault> {
        Visit::current().stays_until(self.after(time));
        let late = || Fault::new(FaultClass::DeadlineExceeded, "the deadline passed before the request was read");
        time.checked_sub(self.took()).filter(|left| !left.is_zero()).ok_or_else(late)
    }

    /// Hands it in as `request`.
    ///
    /// # Errors
    /// Whatever refuses it.
    pub(crate) async fn submit(&mut self, intake: &dyn Intake, request: Request) -> Result<Answer, Fault> {
        let request = Request { call_id: self.id.clone(), trace: Some(self.trace), ..request };
        let answer = intake.submit(request).await?;
        self.prompt_tokens = answer.prompt_tokens;
        self.site.setup.metrics.door.prompt_tokens.inc_by(u64::from(answer.prompt_tokens));
        Ok(answer)
    }

    /// It is answered from a log.
    pub(crate) fn reads(&mut self, answer: &Answer) {
        self.prompt_tokens = answer.prompt_tokens;
    }

    /// It is refused.
    pub(crate) fn refused(&mut self, fault: &Fault) {
        self.ends(Some(fault.class));
        self.span.in_scope(|| warn!(%fault, "request refused"));
    }

    /// It ends: well, or by a fault of that class. The first end counts.
    pub(crate) fn ends(&mut self, fault: Option<FaultClass>) {
        self.end.get_or_insert(fault);
    }

    /// A token is handed out.
    fn token(&mut self) {
        let figures = &self.site.setup.metrics.door;
        if self.answer_tokens == 0 {
            figures.first_token_seconds.observe(self.took().as_secs_f64());
        }
        figures.answer_tokens.inc();
        self.answer_tokens += 1;
    }

    /// Time since it came.
    fn took(&self) -> Duration {
        self.came.elapsed()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let end = self.end.unwrap_or(Some(FaultClass::Cancelled));
        // In this order: who sees that nothing is in flight sees how it ended.
        self.site.setup.metrics.door.ended(end, self.took());
        self.site.setup.metrics.door.requests_in_flight.dec();
        let outcome = end.map_or("ok", |class| class.row().name);
        let (prompt_tokens, answer_tokens, took_ms) = (self.prompt_tokens, self.answer_tokens, self.took().as_millis());
        self.span.in_scope(|| info!(outcome, prompt_tokens, answer_tokens, took_ms, "request ended"));
    }
}

/// The answer to a call on its way to the client, counted as it goes. Dropped before its end, it cancels the request.
pub(crate) struct Answering {
    answer: Answer,
    pub call: Call,
}

impl Answering {
    /// Nothing of `answer` has been handed out yet.
    pub(crate) fn new(answer: Answer, call: Call) -> Self {
        Self { answer, call }
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        self.answer.prompt_tokens
    }

    /// The next piece; `None` after the last one, which is `Finished` or `Failed`.
    pub(crate) async fn next(&mut self) -> Option<AnswerEvent> {
        if self.call.end.is_some() {
            return None;
        }
        let event = self.answer.next().await;
        match &event {
            AnswerEvent::Token { .. } => self.call.token(),
            AnswerEvent::Vector(_) | AnswerEvent::Tensors(_) => {}
            AnswerEvent::Finished { .. } => self.call.ends(None),
            AnswerEvent::Failed(fault) => {
                self.call.ends(Some(fault.class));
                self.call.span.in_scope(|| warn!(%fault, "answer broken off"));
            }
        }
        Some(event)
    }
}
