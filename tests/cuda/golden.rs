//! Whole models through candle's CUDA path: the reference's tokens and vectors, split over stages.

use crate::files::{Weights, minilm, smollm2};
use crate::pipeline::{Job, Pipeline, Variant};
use crate::real_models::{MINILM, SMOLLM2, golden_cases, ids};
use stageline_engine::DeviceChoice;

/// The token that ends an answer.
const END: u32 = 2;
const TOKENS: usize = 64;
const VECTOR_TOLERANCE: f64 = 1e-5;

fn on_device(stages: usize) -> Variant {
    Variant { device: DeviceChoice::Cuda(0), ..Variant::plain(stages) }
}

#[test]
fn greedy_ids_are_the_references_at_1_2_and_3_stages() {
    let (weights, cases) = (Weights::of(SMOLLM2), golden_cases(SMOLLM2));
    let jobs: Vec<Job> =
        cases.iter().map(|case| Job { prompt: ids(&case["input_ids"]), tokens: TOKENS, stop: END }).collect();
    // At one stage whole prompts, elsewhere chunks: rows of prompts and of answers share batches then.
    for (stages, chunk) in [(1, usize::MAX), (2, 16), (3, 7)] {
        let answers = Pipeline::load(&weights, &smollm2(), on_device(stages)).generate(&jobs, chunk);
        for (i, (answer, case)) in answers.iter().zip(&cases).enumerate() {
            let want = ids(&case["greedy_ids"]);
            assert_eq!(answer.ids, want[..want.len().min(TOKENS)], "case {i} at {stages} stages");
        }
    }
}

#[test]
fn vectors_are_near_the_references_at_1_and_3_stages() {
    let (weights, cases) = (Weights::of(MINILM), golden_cases(MINILM));
    let sequences: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["input_ids"])).collect();
    for stages in [1, 3] {
        let vectors = Pipeline::load(&weights, &minilm(), on_device(stages)).embed(&sequences);
        for (i, (vector, case)) in vectors.iter().zip(&cases).enumerate() {
            for (got, want) in vector.iter().zip(case["embedding"].as_array().expect("an array")) {
                let off = (f64::from(*got) - want.as_f64().expect("a number")).abs();
                assert!(off <= VECTOR_TOLERANCE, "case {i} at {stages} stages: {got} is {off} off");
            }
        }
    }
}
