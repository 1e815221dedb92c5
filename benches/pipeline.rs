//! What the server costs: the served model beside a plain loop over the same layers, and a step and a row without layers.
//!
//! `cargo bench --bench pipeline`; needs SmolLM2 (scripts/fetch_models.py). `STAGELINE_BENCH_THREADS` (2) compute threads.

#[path = "support/mod.rs"]
mod support;

use stageline_base::{ReplicaId, SequenceId, Task, Tensors, Trace};
use stageline_core::{BatchId, Emission, Member, Microbatch, Opening, Output, Sampling, Ticket, Work};
use stageline_ops::Threads;
use stageline_plan::Goal;
use stageline_server::Blueprint;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use support::{KV, Layers, PROMPT, ask, blueprint, end, options, quantile, serve, setup};

const PAIRS: usize = 24;
const TOKENS: usize = 64;
const ROUNDS: usize = 9;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    start();
    served_beside_plain().await;
    for stages in [1, 3] {
        step_and_row(stages).await;
    }
}

/// From a shard in the page cache to a stage that could run, beside a loop that reads the file into fresh memory and
/// converts its elements; the stage's warm-up apart.
fn start() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("pipeline");
    support::split(env!("CARGO_BIN_EXE_stageline"), 1, "1:64", &out);
    let files = std::fs::read_dir(&out).expect("the pipeline").flatten().map(|entry| entry.path());
    let shard = files.max_by_key(|path| path.metadata().map_or(0, |file| file.len())).expect("a shard");
    let blueprint = Blueprint::open(&out, None, Goal::default()).expect("the pipeline opens");
    let threads = threads();
    let (mut ratios, mut warm_ups, mut loops) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        let converted = read_and_convert(&shard);
        let plain = begun.elapsed().as_secs_f64();
        drop(converted);
        let begun = Instant::now();
        let mut executor = blueprint.loader(0, setup(&threads, &options()), |_| ())().expect("the stage loads");
        let loaded = begun.elapsed().as_secs_f64();
        executor.warm_up().expect("it runs");
        // The first round brings the file into the page cache.
        if round > 0 {
            loops.push(plain * 1e3);
            ratios.push(loaded / plain);
            warm_ups.push((begun.elapsed().as_secs_f64() - loaded) * 1e3);
        }
    }
    println!(
        "start of one stage: {:.2} x a loop that reads and converts ({:.0} ms); warm-up {:.0} ms (medians of {ROUNDS})",
        quantile(&mut ratios, 0.5),
        quantile(&mut loops, 0.5),
        quantile(&mut warm_ups, 0.5),
    );
}

/// Every element of a safetensors file of bf16 numbers, through no more than the standard library.
fn read_and_convert(shard: &Path) -> (Vec<u8>, Vec<half::bf16>) {
    let bytes = std::fs::read(shard).expect("the shard");
    let header = u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
    let elements = bytes[8 + header..].as_chunks::<2>().0;
    let converted = elements.iter().map(|bytes| half::bf16::from_le_bytes(*bytes)).collect();
    (bytes, converted)
}

fn threads() -> Threads {
    let count = std::env::var("STAGELINE_BENCH_THREADS").map_or(2, |n| n.parse().expect("a number"));
    Threads::new(count).expect("threads start")
}

async fn served_beside_plain() {
    let threads = threads();
    let count = threads.count();
    let mut plain = plain_loop(&threads);
    let serving = serve(1, &Layers::Real(threads.clone())).await;
    let (mut ratios, mut speeds) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let (served, alone);
        if pair % 2 == 0 {
            served = served_rate(&serving).await;
            alone = plain();
        } else {
            alone = plain();
            served = served_rate(&serving).await;
        }
        // The first pair warms both up.
        if pair > 0 {
            ratios.push(served / alone);
            speeds.push(served);
        }
    }
    end(serving).await;
    println!(
        "one stage, one request, {count} threads: served / plain loop = {:.3} (median of {PAIRS} pairs; 10 % {:.3}, 90 % \
         {:.3}); served {:.1} tokens/s",
        quantile(&mut ratios, 0.5),
        quantile(&mut ratios, 0.1),
        quantile(&mut ratios, 0.9),
        quantile(&mut speeds, 0.5),
    );
}

/// Decode tokens a second: the first token, which the prompt makes, only starts the clock.
async fn served_rate(serving: &stageline_server::Serving) -> f64 {
    let moments = ask(serving, &PROMPT, TOKENS).await.expect("the request runs");
    (moments.len() - 1) as f64 / (moments[moments.len() - 1] - moments[0]).as_secs_f64()
}

/// The same model code, driven by a loop.
fn plain_loop(threads: &Threads) -> impl FnMut() -> f64 {
    let blueprint = blueprint(1);
    let mut executor = blueprint.loader(0, setup(threads, &options()), |_| ())().expect("the model loads");
    executor.warm_up().expect("it runs");
    let opening = Arc::new(Opening {
        sequence: SequenceId { boot: 1, counter: 1 },
        attempt: 1,
        door: ReplicaId::new("door", 1),
        path: Vec::new(),
        call_id: String::new(),
        trace: Trace::begun(1, 1),
        work: Work::of(Task::GENERATE, Sampling::GREEDY),
        known: Vec::new(),
        capacity_tokens: 0,
    });
    let blocks: Arc<[u32]> = (0..KV.blocks as u32).collect();
    move || {
        let mut step = |start: usize, ids: &[u32]| {
            let member = Member {
                sequence: opening.sequence,
                attempt: 1,
                start: start as u32,
                rows: ids.len() as u32,
                emit: true,
                ticket: Ticket(1),
                ticket_row: 0,
                opening: opening.clone(),
                blocks: blocks.clone(),
                history: None,
            };
            let batch = Microbatch { id: BatchId(0), members: vec![member] };
            match executor.run(&batch, &[Tensors::tokens(ids)]) {
                Ok(Output::Emissions(emissions)) => match emissions[..] {
                    [Some(Emission::Token { id, .. })] => id,
                    ref other => panic!("{other:?} is no token"),
                },
                other => panic!("{other:?} is no emission"),
            }
        };
        let mut id = step(0, &PROMPT);
        let begun = Instant::now();
        for i in 0..TOKENS - 1 {
            id = step(PROMPT.len() + i, &[id]);
        }
        (TOKENS - 1) as f64 / begun.elapsed().as_secs_f64()
    }
}

async fn step_and_row(stages: usize) {
    let serving = serve(stages, &Layers::Fake).await;
    let moments = ask(&serving, &PROMPT, 2000).await.expect("the request runs");
    let mut steps: Vec<f64> = moments.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e6).collect();
    let (p50, p99) = (quantile(&mut steps, 0.5), quantile(&mut steps, 0.99));

    let mut rates = Vec::new();
    for _ in 0..5 {
        let tokens = 1500;
        let asked = (0..32).map(|_| ask(&serving, &PROMPT, tokens));
        let begun = Instant::now();
        futures::future::try_join_all(asked).await.expect("the requests run");
        rates.push((32 * tokens) as f64 / begun.elapsed().as_secs_f64());
    }
    end(serving).await;
    println!(
        "{stages} stages without layers: {p50:.0} us a step (median; 99 % {p99:.0}), {:.0} rows/s at 32 rows a batch",
        quantile(&mut rates, 0.5) * stages as f64,
    );
}
