//! A pipeline served in this process: door, pumps, device threads and hops as in production.

use crate::looking::found;
use crate::nats::NatsServer;
use crate::patience::soon;
use crate::real_models::model_dir;
use stageline_base::{Element, StageIndex};
use stageline_core::Observed;
use stageline_door::reception::Reception;
use stageline_door::{AnswerEvent, Intake, Request};
use stageline_engine::{DeviceChoice, Runner};
use stageline_metrics::Metrics;
use stageline_ops::{Isa, Threads};
use stageline_plan::Goal;
use stageline_server::{Blueprint, BrokerAccess, Hardware, Host, Options, Serving, reach, unwatched};
use stageline_transport::{HopKind, HopSettings};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Sequences at once, and so the rows of the largest decode batch.
pub const MAX_NUM_SEQS: u32 = 16;
/// `max_batch_tokens` of whoever sets none.
pub const USUAL_CHUNK: u32 = 256;
/// Longer than every sequence here; small, since an encoder is warmed up with this many rows.
const MAX_MODEL_LEN: u32 = 128;
const BLOCK_SIZE: u32 = 16;

/// Turns a hang into a failure, where what is waited for is a lot of work: half a minute of two idle cores, at most.
const MOST_WORK: Duration = Duration::from_secs(600);

/// What joins the stages. All but memory: a real server, and a connection a stage, as if each were a process of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hops {
    Memory,
    Nats,
    Grpc,
    Shm,
    /// One of each after the other: NATS, gRPC, shared memory, and so on.
    Mixed,
}

impl Hops {
    pub const ALL: [Hops; 5] = [Hops::Memory, Hops::Nats, Hops::Grpc, Hops::Shm, Hops::Mixed];

    /// How `stage` sends to the next.
    fn of(self, stage: StageIndex) -> HopKind {
        match self {
            Self::Memory => HopKind::Memory,
            Self::Nats => HopKind::Nats,
            Self::Grpc => HopKind::Grpc,
            Self::Shm => HopKind::Shm,
            Self::Mixed => [HopKind::Nats, HopKind::Grpc, HopKind::Shm][usize::from(stage) % 3],
        }
    }
}

/// How a pipeline is served.
#[derive(Clone, Copy)]
pub struct Variant {
    pub stages: usize,
    pub hops: Hops,
    /// `max_batch_tokens`: longer prompts go in chunks.
    pub chunk: u32,
    pub threads: usize,
    pub isa: Isa,
    /// What numbers that cross between stages are.
    pub wire_dtype: Element,
}

impl Variant {
    pub fn of(stages: usize, hops: Hops) -> Self {
        let (chunk, isa, wire_dtype) = (USUAL_CHUNK, Isa::available()[0], Element::F32);
        Self { stages, hops, chunk, threads: 2, isa, wire_dtype }
    }

    /// Decode microbatches, as the program sets them: one a device.
    fn microbatches(&self) -> usize {
        if self.hops == Hops::Memory { 1 } else { self.stages }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hops = format!("{:?}", self.hops).to_lowercase();
        let (stages, chunk, threads, isa) = (self.stages, self.chunk, self.threads, self.isa.name());
        write!(
            f,
            "stages {stages:2}, {hops:6}, max_batch_tokens {chunk:3}, threads {threads}, {isa}, {}",
            self.wire_dtype
        )
    }
}

/// What a request came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    pub ids: Vec<u32>,
    pub observed: Vec<Observed>,
    pub vector: Vec<f32>,
}

/// A pipeline at work.
pub struct Served {
    variant: Variant,
    reception: Arc<Reception>,
    stages: Vec<Serving>,
    metrics: Arc<Metrics>,
    _broker: Option<NatsServer>,
}

impl Served {
    /// Loads the model called `model` and serves it.
    pub async fn start(model: &str, variant: Variant) -> Self {
        let dir = model_dir(model);
        let blueprint = Blueprint::open(&dir, Some(variant.stages), Goal::default()).expect("the model can be cut");
        let hardware = Hardware {
            device: DeviceChoice::Cpu(variant.isa),
            runner: Runner::Candle,
            threads: Threads::new(variant.threads).expect("threads start"),
            share: 1.0,
            timeout: None,
        };
        let host = |here| {
            let (blueprint, hardware) = (blueprint.clone(), hardware.clone());
            Host::new(blueprint, Some("golden".into()), options(variant), hardware, here)
                .expect("there are such stages")
        };
        let all = host(None);
        let (mut served, mut broker) = (Vec::new(), None);
        match variant.hops {
            Hops::Memory => {
                served.push(all.start_embedded(unwatched).await.expect("the pipeline starts"));
            }
            hops => {
                let server = broker.insert(NatsServer::start().await);
                for stage in 0..all.pipeline.stages {
                    // Every stage can be joined, whatever the one before it sends by.
                    let listen = Some(([127, 0, 0, 1], 0).into());
                    let hop = HopSettings { hop: hops.of(stage), listen, advertise: None };
                    let access = BrokerAccess { urls: server.url(), ..BrokerAccess::default() };
                    let broker = reach(&all.pipeline, stage, access, &all.metrics).await.unwrap();
                    // All count on one page.
                    let mut host = host(Some(stage));
                    host.metrics = all.metrics.clone();
                    let serving = host.start_stage(broker, &hop, unwatched).await.expect("the stage starts");
                    assert_eq!(serving.hop, hops.of(stage));
                    served.push(serving);
                }
            }
        }
        let reception = served[0].reception.clone().expect("stage 0 has the door");
        Self { variant, reception, stages: served, metrics: all.metrics, _broker: broker }
    }

    /// The answers to `requests`, which are all sent at once.
    pub async fn answers(&self, requests: Vec<Request>) -> Vec<Answered> {
        let answers = requests.into_iter().map(|request| self.answer(request));
        let all = tokio::time::timeout(MOST_WORK, futures::future::join_all(answers)).await;
        all.unwrap_or_else(|_| panic!("still waiting for the answers, {}: {}", self.variant, self.metrics.render()))
    }

    async fn answer(&self, request: Request) -> Answered {
        // Over NATS, stage 0 may not have seen yet that the others are there.
        let submitted =
            found("a live replica of every stage", async || match self.reception.submit(request.clone()).await {
                Err(fault) if fault.message.contains("has no live replica") => None,
                submitted => Some(submitted),
            });
        let mut answer = submitted.await.expect("the request is admitted");
        let mut answered = Answered::default();
        loop {
            match answer.events.recv().await.expect("an end") {
                AnswerEvent::Token { id, observed, .. } => {
                    answered.ids.push(id);
                    answered.observed.extend(observed);
                }
                AnswerEvent::Vector(vector) => answered.vector = vector,
                AnswerEvent::Tensors(tensors) => panic!("{tensors:?} of a text"),
                AnswerEvent::Finished { .. } => return answered,
                AnswerEvent::Failed(fault) => panic!("{fault}"),
            }
        }
    }

    /// Batches that stage 0 has run so far.
    pub fn batches(&self) -> u64 {
        let count = number(&self.metrics.render(), r#"stageline_batch_rows_count{pipeline="golden",stage="0"}"#);
        count.parse().expect("a whole number")
    }

    /// Asserts that no stage has run a batch of more rows than `max_batch_tokens`: so it is while a sequence is alone.
    pub fn assert_chunked(&self) {
        let page = self.metrics.render();
        let bound = self.variant.chunk.next_power_of_two();
        for stage in 0..self.variant.stages {
            let labels = format!("{{pipeline=\"golden\",stage=\"{stage}\"");
            let within = number(&page, &format!("stageline_batch_rows_bucket{labels},le=\"{bound}\"}}"));
            let all = number(&page, &format!("stageline_batch_rows_count{labels}}}"));
            assert_eq!(within, all, "batches of up to {bound} rows at stage {stage}, {}", self.variant);
        }
    }

    /// Whether sequences that run at once share batches to the end: not where few or none are in a microbatch.
    pub fn shares_batches(&self) -> bool {
        self.variant.microbatches() * 4 <= MAX_NUM_SEQS as usize
    }

    /// Asserts that every stage but the last has made the hop that it was told to, and says so.
    fn assert_hops(&self) {
        let page = self.metrics.render();
        for stage in 0..self.variant.stages {
            let hop = self.variant.hops.of(stage as StageIndex);
            let labels = format!("{{pipeline=\"golden\",stage=\"{stage}\"");
            assert!(page.contains(&format!("stageline_stage_hop_info{labels},hop=\"{hop}\"}} 1\n")), "{page}");
            let own = matches!(hop, HopKind::Grpc | HopKind::Shm) && stage + 1 < self.variant.stages;
            let opened = u8::from(own);
            assert!(page.contains(&format!("stageline_hops_opened_total{labels}}} {opened}\n")), "{page}");
        }
    }

    /// Drains all stages, and asserts that nothing is left on any of them.
    pub async fn end(self) {
        self.assert_hops();
        for serving in self.stages {
            soon("the end of a drain", serving.finish()).await.expect("a good end");
        }
        for stage in 0..self.variant.stages {
            let stage = self.metrics.stage(stage as StageIndex).expect("every stage counts");
            assert_eq!((stage.live_sequences.get(), stage.kv_blocks_used.get()), (0, 0), "{}", self.variant);
        }
    }
}

/// The value of a series of a metrics page.
fn number(page: &str, series: &str) -> String {
    let line = page.lines().find(|line| line.starts_with(series)).expect("a series of the page");
    line.rsplit_once(' ').expect("a value").1.to_owned()
}

fn options(variant: Variant) -> Options {
    let microbatches = variant.microbatches() as u32;
    Options {
        max_num_seqs: MAX_NUM_SEQS,
        max_model_len: MAX_MODEL_LEN,
        max_batch_tokens: variant.chunk,
        max_batch_delay: Duration::ZERO,
        block_size: BLOCK_SIZE,
        kv_blocks: MAX_NUM_SEQS * MAX_MODEL_LEN.div_ceil(BLOCK_SIZE),
        least_kv_blocks: MAX_NUM_SEQS * MAX_MODEL_LEN.div_ceil(BLOCK_SIZE),
        microbatches,
        microbatches_away: microbatches,
        max_queue: 64,
        queue_timeout: Duration::from_secs(60),
        stage_timeout: Duration::from_secs(60),
        default_max_tokens: 64,
        max_deadline: Duration::from_secs(3600),
        wire_dtype: variant.wire_dtype,
    }
}
