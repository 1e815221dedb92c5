//! The calls of `stageline.v1.Inference`.

use super::body::Came;
use super::{deadline, pb, requests, status};
use crate::call::{CALL_ID, Call};
use crate::http::visit::Visit;
use crate::site::{Port, Site};
use crate::{Answer, AnswerEvent, FinishReason};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use stageline_base::{Fault, FaultClass, Gives, StageIndex};
use stageline_wire::Phase;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Extensions, Request, Response, Status};
use tracing::{Instrument, warn};

/// See the module.
pub(super) struct Service {
    site: Arc<Site>,
    port: Port,
}

/// What a call brings beside its message.
struct Arrived {
    call: Call,
    deadline: Result<Duration, Fault>,
}

impl Service {
    pub(super) fn new(site: Arc<Site>, port: Port) -> Self {
        Self { site, port }
    }

    /// Refuses a call that is not to be had at this port but at `other`.
    fn not_at(&self, other: Port) -> Result<(), Status> {
        match (self.port, other) {
            (Port::Clients, Port::Admin) => {
                Err(Status::unimplemented("this call is for the admin address of the stage"))
            }
            (Port::Admin, Port::Clients) => {
                Err(Status::unimplemented("prompts are for the stage's address for clients"))
            }
            _ => Ok(()),
        }
    }

    /// Gives the call its place, until its answer is delivered or its deadline.
    fn takes_place(&self, deadline: Duration) -> Result<(), Fault> {
        Visit::current().stays(Instant::now() + deadline, self.site.place()?)
    }

    fn arrived<T>(&self, request: Request<T>) -> (Arrived, T) {
        let (metadata, extensions, message): (MetadataMap, Extensions, T) = request.into_parts();
        let headers = metadata.into_headers();
        let limits = &self.site.setup.limits;
        let spent = extensions.get::<Came>().map_or(Duration::ZERO, |came| came.0.elapsed());
        let late = || Fault::new(FaultClass::DeadlineExceeded, "the deadline passed before the request was read");
        let time = deadline::of(&headers).and_then(|time| {
            // A longer timeout only says how long the client would wait.
            let time = time.map_or(limits.default_deadline, |time| time.min(limits.max_deadline));
            time.checked_sub(spent).filter(|left| !left.is_zero()).ok_or_else(late)
        });
        let call_id = self.site.call_ids.of(&headers);
        let call = Call::new(call_id, Arc::clone(&self.site.setup.metrics));
        (Arrived { call, deadline: time }, message)
    }

    /// Hands a request in, if it may come in here and is one for a model that `gives` such answers.
    async fn submit(
        &self,
        Arrived { call, deadline }: &mut Arrived,
        gives: Gives,
        request: Result<crate::Request, Fault>,
    ) -> Result<Answer, Fault> {
        let intake = self.site.intake()?;
        let deadline = deadline.clone()?;
        self.takes_place(deadline)?;
        let task = intake.task();
        if task.gives != gives {
            let call = if task.generates() { "Generate" } else { "Embed" };
            return Err(Fault::invalid(format!("this pipeline {}: call {call}", task.verb())));
        }
        let request = crate::Request { deadline: Some(deadline), ..request? };
        let answer = intake.submit(request).await?;
        call.admitted(answer.prompt_tokens);
        Ok(answer)
    }

    async fn run_rows(&self, arrived: &mut Arrived, asked: pb::RunRequest) -> Result<pb::RunReply, Fault> {
        let time = arrived.deadline.clone()?;
        self.takes_place(time)?;
        let stage = match asked.stage {
            Some(stage) => Some(StageIndex::try_from(stage).map_err(|_| Fault::invalid("`stage` is none"))?),
            None => None,
        };
        let run = requests::run(asked, &arrived.call.id)?;
        let late = || Fault::new(FaultClass::DeadlineExceeded, "the rows were not run in time");
        let outcome = tokio::time::timeout(time, self.site.setup.stages.run(stage, run)).await;
        let outcome = outcome.map_err(|_| late())??;
        requests::all_numbers(&outcome.output)
            .map_err(|_| Fault::invalid("the rows overflow in this stage's layers"))?;
        let (outputs, top) = (requests::tensors(outcome.output), outcome.observed.map(requests::top));
        Ok(pb::RunReply { outputs, top })
    }

    fn status_now(&self) -> pb::StatusReply {
        let state = &self.site.setup;
        let overview = state.stages.overview();
        let stages = overview.cut.iter().zip(0..).map(|(facts, stage)| pb::ManifestStage {
            stage,
            first_layer: facts.layers.start as u32,
            end_layer: facts.layers.end as u32,
            parameters: facts.parameters,
            cost: facts.cost,
        });
        let here = overview.here.iter().filter_map(|here| {
            let figures = state.metrics.stage(here.stage)?;
            Some(pb::LocalStage {
                stage: u32::from(here.stage),
                columns: here.columns(),
                takes: here.takes.lines(),
                queued_rows: figures.queued_rows.get(),
                live_sequences: figures.live_sequences.get(),
                kv_blocks_total: figures.kv_blocks.get(),
                kv_blocks_free: figures.kv_blocks.get().saturating_sub(figures.kv_blocks_used.get()),
                hop: here.hop.to_owned(),
            })
        });
        let replicas = overview.replicas.iter().map(|replica| pb::Replica {
            id: replica.replica.to_string(),
            stage: u32::from(replica.stage),
            phase: phase(replica.phase).to_owned(),
            started_unix_ms: replica.started_unix_ms,
            kv_blocks_total: replica.kv_blocks_total,
            kv_blocks_free: replica.kv_blocks_free,
            max_model_len: replica.max_model_len,
            live_sequences: replica.live_sequences,
        });
        pb::StatusReply {
            pipeline: state.pipeline.clone(),
            stages: stages.collect(),
            here: here.collect(),
            replicas: replicas.collect(),
            embeds: !overview.task.generates(),
            vocab: overview.vocab,
            manifest: overview.manifest,
            waiting_requests: state.metrics.door.requests_waiting.get(),
            calls_in_flight: state.metrics.door.requests_in_flight.get(),
        }
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Loading => "loading",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
    }
}

/// Ends `call`, and tells its client the id.
fn ended<T>(outcome: Result<T, Fault>, mut call: Call) -> Result<Response<T>, Status> {
    match outcome {
        Ok(message) => {
            call.ends(None);
            Ok(named(message, &call.id))
        }
        Err(fault) => Err(refused(&fault, call)),
    }
}

/// Ends `call` with `fault`; the status that tells its client.
pub(super) fn refused(fault: &Fault, mut call: Call) -> Status {
    call.ends(Some(fault.class));
    call.span.in_scope(|| warn!(%fault, "call refused"));
    let mut status = status::of(fault);
    name(status.metadata_mut(), &call.id);
    status
}

/// A response that tells its call's id.
fn named<T>(message: T, id: &str) -> Response<T> {
    let mut response = Response::new(message);
    name(response.metadata_mut(), id);
    response
}

fn name(metadata: &mut MetadataMap, id: &str) {
    // An id is kept only as far as a header can hold it.
    if let Ok(id) = MetadataValue::try_from(id) {
        metadata.insert(CALL_ID, id);
    }
}

/// The vector of an encoder's answer.
async fn vector(mut answer: Answer) -> Result<pb::EmbedReply, Fault> {
    let mut vector = Vec::new();
    loop {
        match answer.next().await {
            AnswerEvent::Vector(values) => vector = values,
            AnswerEvent::Token { .. } => {}
            AnswerEvent::Finished { .. } => {
                return Ok(pb::EmbedReply { vector, prompt_tokens: answer.prompt_tokens });
            }
            AnswerEvent::Failed(fault) => return Err(fault),
        }
    }
}

/// An answer on its way. Dropped when the client goes away, and the answer with it.
struct Pieces {
    answer: Answer,
    call: Call,
    started: bool,
    tokens: u32,
    ended: bool,
}

impl Pieces {
    async fn next(&mut self) -> Option<Result<pb::GenerateEvent, Status>> {
        use pb::generate_event::Event;
        if self.ended {
            return None;
        }
        let event = |event| Some(Ok(pb::GenerateEvent { event: Some(event) }));
        if !self.started {
            self.started = true;
            return event(Event::Started(pb::Started { prompt_tokens: self.answer.prompt_tokens }));
        }
        loop {
            match self.answer.next().await {
                AnswerEvent::Token { id, text, observed } => {
                    self.call.token();
                    let (index, top) = (self.tokens, observed.map(requests::top));
                    self.tokens += 1;
                    return event(Event::Token(pb::GeneratedToken { index, id, text, top }));
                }
                // A decoder has none.
                AnswerEvent::Vector(_) => {}
                AnswerEvent::Finished { reason, text } => {
                    let reason = match reason {
                        FinishReason::Stop => pb::finished::Reason::Stop,
                        FinishReason::Length => pb::finished::Reason::Length,
                    };
                    self.ended = true;
                    self.call.ends(None);
                    let (reason, completion_tokens) = (reason.into(), self.tokens);
                    return event(Event::Finished(pb::Finished { reason, text, completion_tokens }));
                }
                AnswerEvent::Failed(fault) => {
                    self.call.span.in_scope(|| warn!(%fault, "answer broken off"));
                    self.ended = true;
                    self.call.ends(Some(fault.class));
                    return Some(Err(status::of(&fault)));
                }
            }
        }
    }
}

#[tonic::async_trait]
impl pb::inference_server::Inference for Service {
    type GenerateStream = BoxStream<'static, Result<pb::GenerateEvent, Status>>;

    async fn generate(&self, request: Request<pb::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        self.not_at(Port::Clients)?;
        let (mut arrived, asked) = self.arrived(request);
        let span = arrived.call.span.clone();
        let asked = requests::generate(asked, &arrived.call.id);
        match self.submit(&mut arrived, Gives::Tokens, asked).instrument(span).await {
            Err(fault) => ended(Err(fault), arrived.call),
            Ok(answer) => {
                let id = arrived.call.id.clone();
                let pieces = Pieces { answer, call: arrived.call, started: false, tokens: 0, ended: false };
                let events = stream::unfold(pieces, |mut pieces| async {
                    let event = pieces.next().await?;
                    Some((event, pieces))
                });
                Ok(named(events.boxed(), &id))
            }
        }
    }

    async fn embed(&self, request: Request<pb::EmbedRequest>) -> Result<Response<pb::EmbedReply>, Status> {
        self.not_at(Port::Clients)?;
        let (mut arrived, asked) = self.arrived(request);
        let span = arrived.call.span.clone();
        let asked = requests::embed(asked, &arrived.call.id);
        let answering = async { vector(self.submit(&mut arrived, Gives::Vector, asked).await?).await };
        let outcome = answering.instrument(span).await;
        ended(outcome, arrived.call)
    }

    async fn run(&self, request: Request<pb::RunRequest>) -> Result<Response<pb::RunReply>, Status> {
        self.not_at(Port::Admin)?;
        let (mut arrived, asked) = self.arrived(request);
        let span = arrived.call.span.clone();
        let outcome = self.run_rows(&mut arrived, asked).instrument(span).await;
        ended(outcome, arrived.call)
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        self.not_at(Port::Admin)?;
        Ok(Response::new(self.status_now()))
    }
}
