//! Decode speed of stageline (weights in bf16, as the model stores them) beside candle-transformers' Llama in f32, in one
//! run, at 1 and at 8 requests; the two take turns.
//!
//! `RAYON_NUM_THREADS=2 cargo run --release --manifest-path benches/candle-llama/Cargo.toml`; needs SmolLM2
//! (scripts/fetch_models.py). candle takes its threads from RAYON_NUM_THREADS, and stageline as many.

#[path = "../../support/mod.rs"]
#[allow(dead_code, reason = "the other benches also serve a pipeline without a model")]
mod support;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use stageline_ops::Threads;
use stageline_server::Serving;
use std::time::Instant;
use support::{Layers, PROMPT, ask, end, quantile, serve};

const ROUNDS: usize = 7;
const TOKENS: usize = 48;
const STAGES: [usize; 2] = [1, 3];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::var("RAYON_NUM_THREADS")?.parse()?;
    let candle = Candle::load()?;
    let threads = Threads::new(count)?;
    let mut pipelines = Vec::new();
    for stages in STAGES {
        pipelines.push(serve(stages, &Layers::Real(threads.clone())).await);
    }
    println!("{count} threads, tokens/s: median of {ROUNDS} rounds, each against candle in the same round");
    for requests in [1, 8] {
        let mut candles = Vec::new();
        let mut ours = [const { Vec::new() }; 2];
        let mut ratios = [const { Vec::new() }; 2];
        for round in 0..=ROUNDS {
            let base = candle.rate(requests)?;
            // The first round warms everything up.
            if round > 0 {
                candles.push(base);
            }
            for (k, serving) in pipelines.iter().enumerate() {
                let rate = rate(serving, requests).await;
                if round > 0 {
                    ours[k].push(rate);
                    ratios[k].push(rate / base);
                }
            }
        }
        println!("{requests} requests: candle f32 {:.1}", quantile(&mut candles, 0.5));
        for (k, stages) in STAGES.into_iter().enumerate() {
            let (rate, ratio) = (quantile(&mut ours[k], 0.5), quantile(&mut ratios[k], 0.5));
            println!("{requests} requests: stageline bf16, {stages} stages {rate:.1} = {ratio:.2} x candle");
        }
    }
    for serving in pipelines {
        end(serving).await;
    }
    Ok(())
}

/// Tokens a second of all `requests` together, from when each has its first to when the first of them has its last.
async fn rate(serving: &Serving, requests: usize) -> f64 {
    let asked = (0..requests).map(|_| ask(serving, &PROMPT, TOKENS));
    let all = futures::future::try_join_all(asked).await.expect("the requests run");
    let first = all.iter().map(|moments| moments[0]).max().expect("a request");
    let last = all.iter().map(|moments| moments[moments.len() - 1]).min().expect("a request");
    let tokens = all.iter().flatten().filter(|moment| (first..=last).contains(*moment)).count();
    (tokens - requests) as f64 / (last - first).as_secs_f64()
}

struct Candle {
    model: Llama,
    config: Config,
}

impl Candle {
    fn load() -> Result<Self, Box<dyn std::error::Error>> {
        let folder = support::model();
        let config: LlamaConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let config = config.into_config(false);
        let bytes = std::fs::read(folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
        Ok(Self { model: Llama::load(weights, &config)?, config })
    }

    /// Tokens a second of a batch of `requests`, after the prompt.
    fn rate(&self, requests: usize) -> candle_core::Result<f64> {
        let mut cache = Cache::new(true, DType::F32, &self.config, &Device::Cpu)?;
        let prompt = PROMPT.repeat(requests);
        let mut ids = self.step(Tensor::from_vec(prompt, (requests, PROMPT.len()), &Device::Cpu)?, 0, &mut cache)?;
        let begun = Instant::now();
        for i in 0..TOKENS - 1 {
            ids = self.step(ids.unsqueeze(1)?, PROMPT.len() + i, &mut cache)?;
        }
        Ok(((TOKENS - 1) * requests) as f64 / begun.elapsed().as_secs_f64())
    }

    fn step(&self, ids: Tensor, position: usize, cache: &mut Cache) -> candle_core::Result<Tensor> {
        self.model.forward(&ids, position, cache)?.argmax(1)
    }
}
