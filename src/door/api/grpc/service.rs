//! The calls of `stageline.v1.Inference`.

use super::body::Came;
use super::durable::{self, Kept};
use super::{deadline, pb, requests, status};
use crate::api::idempotency;
use crate::call::{Answering, Call};
use crate::call_ids::CALL_ID;
use crate::durable::Api;
use crate::site::{Port, Site};
use crate::{Answer, AnswerEvent, FinishReason};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use prost::Message;
use stageline_base::{Fault, FaultClass, Gives, StageIndex, Takes, Task, Tensors};
use stageline_wire::Phase;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Extensions, Request, Response, Status};
use tracing::Instrument;

/// See the module.
pub(super) struct Service {
    pub(super) site: Arc<Site>,
    port: Port,
}

/// What a call brings beside its message.
pub(super) struct Arrived {
    pub(super) call: Call,
    /// How long it may take, from its head on.
    pub(super) time: Result<Duration, Fault>,
    /// The key that it is known by, if it comes again.
    pub(super) key: Result<Option<String>, Fault>,
    /// The durable request that it turned out to be.
    pub(super) request: Option<String>,
}

impl Arrived {
    /// Gives the call its place, until its answer is delivered or its time is over; what is left of that.
    pub(super) fn takes_place(&self) -> Result<Duration, Fault> {
        let time = self.time.clone()?;
        self.call.takes_place(self.call.after(time))?;
        self.call.left(time)
    }
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

    pub(super) fn arrived<T>(&self, request: Request<T>) -> (Arrived, T) {
        let (metadata, extensions, message): (MetadataMap, Extensions, T) = request.into_parts();
        let headers = metadata.into_headers();
        let came = extensions.get::<Came>().map_or_else(Instant::now, |came| came.0);
        let limits = &self.site.setup.limits;
        // A longer timeout only says how long the client would wait.
        let time = deadline::of(&headers);
        let time = time.map(|time| time.map_or(limits.default_deadline, |time| limits.longest(Some(time))));
        let key = idempotency::key(&headers);
        (Arrived { call: Call::new(&self.site, &headers, came), time, key, request: None }, message)
    }

    /// Hands a request in, if it may come in here and is one for a model that does what `call` is for.
    async fn submit(
        &self,
        arrived: &mut Arrived,
        call: &str,
        (request, kept): (Result<crate::Request, Fault>, Option<Kept>),
    ) -> Result<Answer, Fault> {
        let intake = self.site.intake()?;
        arrived.call.principal()?;
        let left = arrived.takes_place()?;
        let task = intake.task();
        let calls = calls(task);
        if !calls.contains(&call) {
            return Err(Fault::invalid(format!("this pipeline {}: call {}", task.verb(), calls.join(" or "))));
        }
        let request = request?;
        if let Some(kept) = kept
            && let Some(answer) = self.kept(arrived, kept, &request).await?
        {
            return Ok(answer);
        }
        arrived.call.submit(intake, crate::Request { deadline: Some(left), ..request }).await
    }

    /// Answers a `call` of which there is one reply: `read` of its message, and made by `reply` of its answer.
    async fn whole<T, R, F: Future<Output = Result<R, Fault>>>(
        &self,
        request: Request<T>,
        (call, read): (&str, impl FnOnce(T) -> (Result<crate::Request, Fault>, Option<Kept>)),
        reply: impl FnOnce(Answering) -> F,
    ) -> Result<Response<R>, Status> {
        self.not_at(Port::Clients)?;
        let (mut arrived, asked) = self.arrived(request);
        let (id, span) = (arrived.call.id.clone(), arrived.call.span.clone());
        let answering = async {
            match self.submit(&mut arrived, call, read(asked)).await {
                Err(fault) => Err(refused(&fault, arrived.call)),
                Ok(answer) => {
                    let request = arrived.request.take();
                    let outcome = reply(Answering::new(answer, arrived.call)).await;
                    let named = |reply| also_named(named(reply, &id), request.as_deref());
                    outcome.map(named).map_err(|fault| told(&fault, &id))
                }
            }
        };
        answering.instrument(span).await
    }

    async fn run_rows(&self, arrived: &mut Arrived, asked: pb::RunRequest) -> Result<pb::RunReply, Fault> {
        arrived.call.principal()?;
        let left = arrived.takes_place()?;
        let stage = match asked.stage {
            Some(stage) => Some(StageIndex::try_from(stage).map_err(|_| Fault::invalid("`stage` is none"))?),
            None => None,
        };
        let run = requests::run(asked, &arrived.call)?;
        let late = || Fault::new(FaultClass::DeadlineExceeded, "the rows were not run in time");
        let outcome = tokio::time::timeout(left, self.site.setup.stages.run(stage, run)).await;
        let outcome = outcome.map_err(|_| late())??;
        requests::all_numbers(&outcome.output)
            .map_err(|_| Fault::invalid("the rows overflow in this stage's layers"))?;
        let (outputs, top) = (requests::tensors(outcome.output), outcome.observed.map(requests::top));
        Ok(pb::RunReply { outputs, logits: top })
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
            requests_waiting: state.metrics.door.requests_waiting.get(),
            requests_in_flight: state.metrics.door.requests_in_flight.get(),
        }
    }
}

/// The calls that a model which does `task` answers.
fn calls(task: Task) -> &'static [&'static str] {
    match (task.gives, task.takes) {
        (Gives::Tokens, _) => &["Generate"],
        (Gives::Vector, Takes::Tokens) => &["Embed", "Infer"],
        _ => &["Infer"],
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
    call.refused(fault);
    told(fault, &call.id)
}

/// The status that tells `fault`, and the id of its call.
fn told(fault: &Fault, id: &str) -> Status {
    let mut status = status::of(fault);
    name(status.metadata_mut(), id);
    status
}

/// A response that tells its call's id.
fn named<T>(message: T, id: &str) -> Response<T> {
    let mut response = Response::new(message);
    name(response.metadata_mut(), id);
    response
}

/// The same, which names the durable request that it is of, if it is.
fn also_named<T>(mut response: Response<T>, request: Option<&str>) -> Response<T> {
    if let Some(request) = request {
        durable::names(response.metadata_mut(), request);
    }
    response
}

pub(super) fn name(metadata: &mut MetadataMap, id: &str) {
    // An id is kept only as far as a header can hold it.
    if let Ok(id) = MetadataValue::try_from(id) {
        metadata.insert(CALL_ID, id);
    }
}

/// The vector of an encoder's answer.
async fn vector(mut answering: Answering) -> Result<pb::EmbedReply, Fault> {
    let mut vector = Vec::new();
    while let Some(event) = answering.next().await {
        match event {
            AnswerEvent::Vector(values) => vector = values,
            AnswerEvent::Token { .. } | AnswerEvent::Tensors(_) | AnswerEvent::Finished { .. } => {}
            AnswerEvent::Failed(fault) => return Err(fault),
        }
    }
    Ok(pb::EmbedReply { embedding: vector, prompt_tokens: answering.prompt_tokens() })
}

/// The tensors of an answer; a vector is one.
async fn answered(mut answering: Answering) -> Result<pb::InferReply, Fault> {
    let mut answer = Tensors::default();
    while let Some(event) = answering.next().await {
        match event {
            AnswerEvent::Vector(values) => answer = Tensors::vector(&values),
            AnswerEvent::Tensors(tensors) => answer = tensors,
            AnswerEvent::Token { .. } | AnswerEvent::Finished { .. } => {}
            AnswerEvent::Failed(fault) => return Err(fault),
        }
    }
    Ok(pb::InferReply { outputs: requests::tensors(answer) })
}

/// What a piece of an answer, before which there were `tokens`, is on the wire; a decoder has no vectors.
fn event(piece: AnswerEvent, tokens: &mut u32) -> Option<Result<pb::generate_event::Event, Status>> {
    use pb::generate_event::Event;
    Some(Ok(match piece {
        AnswerEvent::Token { id, text, observed } => {
            let (index, top) = (*tokens, observed.map(requests::top));
            *tokens += 1;
            Event::Token(pb::GeneratedToken { index, token_id: id, text, logits: top })
        }
        AnswerEvent::Vector(_) | AnswerEvent::Tensors(_) => return None,
        AnswerEvent::Finished { reason, text } => {
            let reason = match reason {
                FinishReason::Stop => pb::finished::Reason::Stop,
                FinishReason::Length => pb::finished::Reason::Length,
            };
            Event::Finished(pb::Finished { finish_reason: reason.into(), text, answer_tokens: *tokens })
        }
        AnswerEvent::Failed(fault) => return Some(Err(status::of(&fault))),
    }))
}

/// The events of an answer, whose first token is the one at `position`. Dropped when the client goes away, and the answer with them.
pub(super) fn events(
    answering: Answering,
    position: u32,
) -> impl Stream<Item = Result<pb::GenerateEvent, Status>> + use<> {
    let started = pb::Started { prompt_tokens: answering.prompt_tokens() };
    let started = Ok(pb::generate_event::Event::Started(started));
    let pieces = stream::unfold((answering, position), |(mut answering, mut tokens)| async move {
        loop {
            let piece = answering.next().await?;
            if let Some(event) = event(piece, &mut tokens) {
                return Some((event, (answering, tokens)));
            }
        }
    });
    let events = stream::iter([started]).chain(pieces);
    events.map(|event| event.map(|event| pb::GenerateEvent { event: Some(event) }))
}

#[tonic::async_trait]
impl pb::inference_server::Inference for Service {
    type GenerateStream = BoxStream<'static, Result<pb::GenerateEvent, Status>>;

    async fn generate(&self, request: Request<pb::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        self.not_at(Port::Clients)?;
        let (mut arrived, asked) = self.arrived(request);
        let span = arrived.call.span.clone();
        let kept = Kept { api: Api::Generate, message: asked.encode_to_vec() };
        let asked = (requests::generate(asked), Some(kept));
        match self.submit(&mut arrived, "Generate", asked).instrument(span).await {
            Err(fault) => Err(refused(&fault, arrived.call)),
            Ok(answer) => {
                let (id, request) = (arrived.call.id.clone(), arrived.request.take());
                let response = named(events(Answering::new(answer, arrived.call), 0).boxed(), &id);
                Ok(also_named(response, request.as_deref()))
            }
        }
    }

    type FollowStream = BoxStream<'static, Result<pb::GenerateEvent, Status>>;

    async fn follow(&self, request: Request<pb::FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        self.not_at(Port::Clients)?;
        Ok(self.followed(request).await?.map(StreamExt::boxed))
    }

    async fn embed(&self, request: Request<pb::EmbedRequest>) -> Result<Response<pb::EmbedReply>, Status> {
        let read = |asked: pb::EmbedRequest| {
            let kept = Kept { api: Api::Embed, message: asked.encode_to_vec() };
            (requests::embed(asked), Some(kept))
        };
        self.whole(request, ("Embed", read), vector).await
    }

    async fn infer(&self, request: Request<pb::InferRequest>) -> Result<Response<pb::InferReply>, Status> {
        // Tensors are not kept.
        self.whole(request, ("Infer", |asked| (requests::infer(asked), None)), answered).await
    }

    async fn run(&self, request: Request<pb::RunRequest>) -> Result<Response<pb::RunReply>, Status> {
        self.not_at(Port::Admin)?;
        let (mut arrived, asked) = self.arrived(request);
        let span = arrived.call.span.clone();
        let outcome = self.run_rows(&mut arrived, asked).instrument(span).await;
        ended(outcome, arrived.call)
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        self.not_at(Port::Admin)?;
        self.site.principal(&request.into_parts().0.into_headers()).map_err(|fault| status::of(&fault))?;
        Ok(Response::new(self.status_now()))
    }
}
