//! Real weights through the executors: the reference's tokens and vectors, and the same bits however the work is cut.
//!
//! By default a part of the matrix runs, short enough for CI. `STAGELINE_MODEL_MATRIX=full` runs all of it.
//! The models' folder is `STAGELINE_MODELS`, or `~/.cache/stageline/models`; scripts/test fetches them.

mod decoders;
mod families;
mod files;
mod pipeline;
mod public;
mod random;
#[path = "../support/real_models.rs"]
mod real_models;
mod types;

use files::{Weights, minilm, smollm2};
use pipeline::{Answer, Job, KV, Pipeline, Variant, blocks_of, member};
use real_models::{MINILM, SMOLLM2, full_matrix as full, golden_cases, ids};
use serde_json::Value;
use stageline_base::{Fault, FaultClass, Tensors};
use stageline_core::{BatchId, Microbatch};
use stageline_engine::{CandleExecutor, DeviceChoice, Executor, Setup};
use stageline_model::{LayerRange, ModelSpec, TensorSource};
use stageline_ops::Isa;

/// As `pipeline` makes its executors.
fn load_executor(
    source: &dyn TensorSource,
    spec: &ModelSpec,
    range: LayerRange,
    setup: Setup,
    _: &mut dyn FnMut(u64),
) -> Result<Box<dyn Executor>, Fault> {
    Ok(Box::new(CandleExecutor::load(source, spec, range, setup)?))
}

const END: u32 = 2;
/// The reference sums in another order; its logits of 10 to 30 are then some 1e-4 off.
const LOGIT_TOLERANCE: f64 = 1e-3;
const VECTOR_TOLERANCE: f64 = 1e-5;

fn cases() -> Vec<Value> {
    golden_cases(SMOLLM2)
}

fn golden_jobs(tokens: usize) -> Vec<Job> {
    let job = |case: &Value| Job { prompt: ids(&case["input_ids"]), tokens, stop: END };
    cases().iter().map(job).collect()
}

/// Sequences to be batched with: parts of the golden prompts, of many lengths.
fn others(count: usize, tokens: usize) -> Vec<Job> {
    let all: Vec<u32> = golden_jobs(1).into_iter().flat_map(|job| job.prompt).collect();
    let part = |i: usize| Job { prompt: all[i * 5..i * 5 + 1 + i * 7 % 23].to_vec(), tokens, stop: u32::MAX };
    (0..count).map(part).collect()
}

fn assert_golden(answers: &[Answer], tokens: usize, how: &str) {
    for (i, (answer, case)) in answers.iter().zip(cases()).enumerate() {
        let want = ids(&case["greedy_ids"]);
        assert_eq!(answer.ids, want[..want.len().min(tokens)], "case {i}, {how}");
    }
}

#[test]
fn greedy_ids_and_logit_bits_are_the_same_however_the_work_is_cut() {
    let weights = Weights::of(SMOLLM2);
    let whole = Pipeline::load(&weights, &smollm2(), Variant::plain(1)).generate(&golden_jobs(64), usize::MAX);
    assert_golden(&whole, 64, "one stage");
    for stages in if full() { vec![1, 2, 3, 5, 30] } else { vec![1, 3, 30] } {
        let mut pipeline = Pipeline::load(&weights, &smollm2(), Variant::plain(stages));
        if full() {
            for (i, job) in golden_jobs(64).iter().enumerate() {
                let alone = pipeline.generate(std::slice::from_ref(job), usize::MAX);
                assert_eq!(alone[0], whole[i], "case {i} alone at {stages} stages");
            }
        }
        for chunk in [usize::MAX, 7, 1] {
            let tokens = if full() || chunk == usize::MAX { 64 } else { 8 };
            let mut jobs = golden_jobs(tokens);
            jobs.extend(others(13, tokens));
            let answers = pipeline.generate(&jobs, chunk);
            assert_golden(&answers[..3], tokens, &format!("{stages} stages, chunks of {chunk}"));
            for (i, (answer, whole)) in answers.iter().zip(&whole).enumerate() {
                let same = answer.observed == whole.observed[..answer.ids.len()];
                assert!(same, "case {i}: other logit bits at {stages} stages, chunks of {chunk}, among 13");
            }
        }
    }
}

#[test]
fn logit_bits_are_the_same_on_any_threads_and_instructions() {
    let weights = Weights::of(SMOLLM2);
    // Plain code has no fused multiply-add instruction to use: a token takes it seconds.
    let tokens = |isa: Isa| if isa.name() == "portable" { 2 } else { 16 };
    let short = |tokens| vec![Job { tokens, ..golden_jobs(1)[2].clone() }, others(3, tokens)[2].clone()];
    let plain = Variant::plain(1);
    let want = Pipeline::load(&weights, &smollm2(), plain).generate(&short(16), usize::MAX);
    for isa in Isa::available() {
        for threads in [1, 2] {
            let variant = Variant { device: DeviceChoice::Cpu(isa), threads, ..plain };
            let got = Pipeline::load(&weights, &smollm2(), variant).generate(&short(tokens(isa)), 4);
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.observed, want.observed[..tokens(isa)], "{} on {threads} threads", isa.name());
            }
        }
    }
}

#[test]
fn logits_are_near_the_references() {
    let weights = Weights::of(SMOLLM2);
    let answers = Pipeline::load(&weights, &smollm2(), Variant::plain(1)).generate(&golden_jobs(64), usize::MAX);
    for (i, (answer, case)) in answers.iter().zip(cases()).enumerate() {
        let ends = [("last_position_top5", answer.observed.first()), ("last_step_top5", answer.observed.last())];
        for (name, observed) in ends {
            let got = &observed.expect("observed").top;
            for (want, (id, logit)) in case[name].as_array().expect("an array").iter().zip(got) {
                let off = (want["logit"].as_f64().expect("a logit") - f64::from(*logit)).abs();
                assert_eq!(want["id"].as_u64(), Some(u64::from(*id)), "case {i}, {name}: {got:?}");
                assert!(off <= LOGIT_TOLERANCE, "case {i}, {name}: {logit} is {off} off");
            }
        }
    }
}

#[test]
fn vectors_are_near_the_references_and_have_the_same_bits_however_the_work_is_cut() {
    let weights = Weights::of(MINILM);
    let cases = golden_cases(MINILM);
    let sequences: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["input_ids"])).collect();
    let mut first: Option<Vec<Vec<f32>>> = None;
    for stages in [1, 3, 6] {
        let mut pipeline = Pipeline::load(&weights, &minilm(), Variant::plain(stages));
        let vectors = pipeline.embed(&sequences);
        for (i, (vector, case)) in vectors.iter().zip(&cases).enumerate() {
            for (got, want) in vector.iter().zip(case["embedding"].as_array().expect("an array")) {
                let off = (f64::from(*got) - want.as_f64().expect("a number")).abs();
                assert!(off <= VECTOR_TOLERANCE, "case {i} at {stages} stages: {got} is {off} off");
            }
        }
        for (sequence, vector) in sequences.iter().zip(&vectors) {
            assert_eq!(&pipeline.embed(std::slice::from_ref(sequence))[0], vector, "alone at {stages} stages");
        }
        assert_eq!(first.get_or_insert_with(|| vectors.clone()), &vectors, "{stages} stages");
    }
}

#[test]
fn a_batch_that_does_not_fit_is_a_fault_and_harms_no_other() {
    let weights = Weights::of(SMOLLM2);
    let mut pipeline = Pipeline::load(&weights, &smollm2(), Variant::plain(30));
    let want = pipeline.generate(&golden_jobs(4), usize::MAX);
    let good = Tensors::tokens(&[1]);
    let batches = [
        (member(0, 0..1, true, blocks_of(0, 1)), Tensors::tokens(&[49152]), FaultClass::InvalidRequest),
        (member(0, 0..1, true, vec![KV.blocks as u32]), good.clone(), FaultClass::Internal),
        (member(0, 16..17, true, vec![0]), good.clone(), FaultClass::Internal),
        (member(0, 8192..8193, true, (0..200).cycle().take(600).collect()), good.clone(), FaultClass::Internal),
        (member(0, 0..2, true, blocks_of(0, 1)), good.clone(), FaultClass::Internal),
        (member(0, 0..0, true, blocks_of(0, 1)), Tensors::tokens(&[]), FaultClass::Internal),
    ];
    for (i, (member, input, class)) in batches.into_iter().enumerate() {
        let batch = Microbatch { id: BatchId(0), members: vec![member] };
        let fault = pipeline.run(&batch, &[input]).expect_err("does not fit");
        assert_eq!(fault.class, class, "batch {i}: {fault}");
    }
    assert_eq!(pipeline.generate(&golden_jobs(4), usize::MAX), want);
}
