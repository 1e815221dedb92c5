//! SmolLM2-135M-Instruct served in this process, as `stageline up` serves it, and the figures of a series.

#[path = "../../tests/support/real_models.rs"]
#[allow(dead_code, reason = "the tests also hold answers against the reference's")]
mod real_models;

use stageline_base::{Element, Fault, Task};
use stageline_door::{AnswerEvent, Input, Intake, Request};
use stageline_engine::fake::Script;
use stageline_engine::{DeviceChoice, Runner, Setup};
use stageline_model::KvShape;
use stageline_ops::{Isa, Threads};
use stageline_plan::Goal;
use stageline_server::{Blueprint, Hardware, Host, Options, Serving, unwatched};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Token ids that the model goes on from for long: no end token among the first answers.
pub const PROMPT: [u32; 8] = [504, 3575, 282, 4649, 314, 253, 1109, 281];
pub const KV: KvShape = KvShape { blocks: 512, block_size: 16 };
pub const MAX_SEQS: u32 = 64;

/// The model's folder.
pub fn model() -> PathBuf {
    real_models::model_dir(real_models::SMOLLM2)
}

/// What runs the layers.
#[derive(Clone)]
pub enum Layers {
    /// The model's, on the CPU.
    Real(Threads),
    /// None, at no cost.
    Fake,
}

/// Cuts the model into a pipeline folder at `out`, with the program at `stageline`.
pub fn split(stageline: &str, stages: usize, mix: &str, out: &Path) {
    let mut command = Command::new(stageline);
    command.arg("split").arg(model()).args(["--stages", &stages.to_string(), "--mix", mix, "--out"]).arg(out);
    assert!(command.stdout(Stdio::null()).status().expect("the program starts").success());
}

pub fn blueprint(stages: usize) -> Blueprint {
    Blueprint::open(&model(), Some(stages), Goal::default()).expect("the model opens")
}

/// The stage's setup on the CPU.
pub fn setup(threads: &Threads, options: &Options) -> Setup {
    let device = DeviceChoice::Cpu(Isa::chosen().expect("the processor runs them"));
    Setup {
        device,
        runner: Runner::Candle,
        threads: threads.clone(),
        kv: KV,
        max_rows: options.most_rows(Task::GENERATE),
        max_seqs: MAX_SEQS as usize,
        max_model_len: options.max_model_len as usize,
        least_blocks: KV.blocks,
        to_come: 0,
        share: 1.0,
    }
}

pub fn options() -> Options {
    Options {
        max_num_seqs: MAX_SEQS,
        max_model_len: 2048,
        max_batch_tokens: 256,
        max_batch_delay: Duration::ZERO,
        block_size: KV.block_size as u32,
        kv_blocks: KV.blocks as u32,
        least_kv_blocks: KV.blocks as u32,
        microbatches: 1,
        microbatches_away: 1,
        max_queue: 256,
        queue_timeout: Duration::from_secs(3600),
        stage_timeout: Duration::from_secs(3600),
        default_max_tokens: 256,
        max_deadline: Duration::from_secs(3600),
        wire_dtype: Element::F32,
    }
}

/// `stages` stages in this process.
pub async fn serve(stages: usize, layers: &Layers) -> Serving {
    let mut options = options();
    let (runner, threads) = match layers {
        Layers::Real(threads) => (Runner::Candle, threads.clone()),
        Layers::Fake => {
            // A fake position is 8 bytes: room for every sequence at full length.
            options.kv_blocks = MAX_SEQS * options.max_model_len / options.block_size;
            (Runner::Fake(Script::default()), Threads::new(1).expect("a thread starts"))
        }
    };
    let device = DeviceChoice::Cpu(Isa::chosen().expect("the processor runs them"));
    let hardware = Hardware { device, runner, threads, share: 1.0, timeout: None };
    let host =
        Host::new(blueprint(stages), Some("bench".into()), options, hardware, None).expect("all stages are here");
    host.start_embedded(unwatched).await.expect("the pipeline starts")
}

/// Sends a prompt of token ids, and gives the moments at which its `tokens` answers came.
pub async fn ask(serving: &Serving, prompt: &[u32], tokens: usize) -> Result<Vec<Instant>, Fault> {
    let reception = serving.reception.as_ref().expect("stage 0 is here");
    let mut request = Request::new("bench", Input::Tokens(prompt.to_vec()));
    request.max_tokens = Some(tokens as u32);
    let mut answer = reception.submit(request).await?;
    let mut moments = Vec::with_capacity(tokens);
    while let Some(event) = answer.events.recv().await {
        match event {
            AnswerEvent::Token { .. } => moments.push(Instant::now()),
            AnswerEvent::Failed(fault) => return Err(fault),
            _ => {}
        }
    }
    Ok(moments)
}

/// Ends the pipeline.
pub async fn end(serving: Serving) {
    serving.finish().await.expect("the pumps end well");
}

/// The value below which `share` of them lie.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}
