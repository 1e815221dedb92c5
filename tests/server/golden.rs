//! The reference's tokens and vectors through whole pipelines, and the same bits however they are served.
//!
//! The full matrix is 1, 2, 3, 5 and 30 stages, over memory, NATS, gRPC, shared memory and all of them mixed, with max_batch_tokens of 1, 7 and 256, each case alone
//! and all of them among 13 others. By default a part of it runs that covers every value of every axis, and threads and
//! instruction sets besides, short enough for CI.

use crate::real_models::{MINILM, SMOLLM2, full_matrix, golden_cases, ids};
use crate::served::{Answered, Hops, Served, USUAL_CHUNK, Variant};
use stageline_base::{AskedSampling, Element};
use stageline_door::{Input, Request};
use stageline_ops::Isa;
use std::time::Instant;
use tokio::sync::OnceCell;

/// Tokens of the longest golden answer.
const WHOLE: usize = 64;
const HALF: usize = 32;
/// Tokens where prompts matter more than answers.
const SHORT: usize = 8;
const VECTOR_TOLERANCE: f64 = 1e-5;

fn request(prompt: Vec<u32>, tokens: usize) -> Request {
    let max_tokens = Some(tokens as u32);
    let sampling = AskedSampling { top_logits: Some(5), ..AskedSampling::default() };
    Request { max_tokens, sampling, ..Request::new("golden", Input::Tokens(prompt)) }
}

fn prompt(request: &Request) -> &[u32] {
    match &request.input {
        Input::Tokens(ids) => ids,
        other => panic!("{other:?} is no list of tokens"),
    }
}

fn golden_requests(tokens: usize) -> Vec<Request> {
    golden_cases(SMOLLM2).iter().map(|case| request(ids(&case["input_ids"]), tokens)).collect()
}

/// The golden requests with 13 others: parts of their prompts, of many lengths.
fn requests_in_company(tokens: usize) -> Vec<Request> {
    let cases = golden_cases(SMOLLM2);
    let all: Vec<u32> = cases.iter().flat_map(|case| ids(&case["input_ids"])).collect();
    let others = (0..13).map(|i| request(all[i * 5..i * 5 + 1 + i * 7 % 23].to_vec(), tokens));
    golden_requests(tokens).into_iter().chain(others).collect()
}

/// What every variant must give, bit for bit: one stage, in memory, all requests at once.
async fn reference() -> &'static [Answered] {
    static REFERENCE: OnceCell<Vec<Answered>> = OnceCell::const_new();
    let make = || async {
        let served = Served::start(SMOLLM2, Variant::of(1, Hops::Memory)).await;
        let answers = served.answers(requests_in_company(WHOLE)).await;
        served.end().await;
        answers
    };
    REFERENCE.get_or_init(make).await
}

/// Asserts that the answer to request `i`, of at most `tokens` tokens, is the reference's and that of [`reference`].
async fn assert_same(i: usize, answer: &Answered, tokens: usize, how: &str) {
    if let Some(case) = golden_cases(SMOLLM2).get(i) {
        let want = ids(&case["greedy_ids"]);
        assert_eq!(answer.ids, want[..want.len().min(tokens)], "case {i} {how}");
    }
    let same = &reference().await[i];
    let length = same.ids.len().min(tokens);
    assert_eq!(answer.ids, same.ids[..length], "request {i} {how}");
    assert!(answer.observed == same.observed[..length], "request {i} has other logit bits {how}");
}

/// Each golden case by itself: the same answer, and no batch longer than a chunk.
async fn assert_alone(served: &Served, variant: Variant, tokens: usize) {
    for (i, request) in golden_requests(tokens).into_iter().enumerate() {
        let answer = served.answers(vec![request]).await;
        assert_same(i, &answer[0], tokens, &format!("alone, {variant}")).await;
    }
    served.assert_chunked();
}

/// All golden cases and 13 other requests at once: the same answers, from batches of several sequences.
async fn assert_in_company(served: &Served, variant: Variant, tokens: usize) {
    let before = served.batches();
    let requests = requests_in_company(tokens);
    let prompt_rows: usize = requests.iter().map(|request| prompt(request).len()).sum();
    let answers = served.answers(requests).await;
    for (i, answer) in answers.iter().enumerate() {
        assert_same(i, answer, tokens, &format!("among 13, {variant}")).await;
    }
    let prompts = prompt_rows.div_ceil(variant.chunk as usize) + answers.len();
    let decoded: usize = answers.iter().map(|answer| answer.ids.len() - 1).sum();
    let batches = (served.batches() - before) as usize;
    // A group leaves without who is late: how many share a batch is not certain, only that they do.
    let most = if served.shares_batches() { prompts + decoded * 3 / 4 } else { prompts + decoded };
    assert!(batches <= most, "{batches} batches of {decoded} decode rows, {variant}");
}

/// Serves in this way and asserts that the answers are the same, alone and in company.
async fn assert_variant(variant: Variant, alone: usize, in_company: usize) {
    reference().await;
    let begun = Instant::now();
    let served = Served::start(SMOLLM2, variant).await;
    if alone > 0 {
        assert_alone(&served, variant, alone).await;
    }
    if in_company > 0 {
        assert_in_company(&served, variant, in_company).await;
    }
    served.end().await;
    // Read by people who run the full matrix.
    println!("{variant}: same bits, {alone} tokens alone, {in_company} in company ({:.1?})", begun.elapsed());
}

#[tokio::test]
async fn with_bf16_between_stages_the_bits_hang_on_nothing_else() {
    let of = |hops, chunk| Variant { chunk, wire_dtype: Element::Bf16, ..Variant::of(3, hops) };
    let answers = async |variant, requests| {
        let served = Served::start(SMOLLM2, variant).await;
        let answers = served.answers(requests).await;
        served.end().await;
        answers
    };
    let same = answers(of(Hops::Memory, USUAL_CHUNK), requests_in_company(SHORT)).await;
    let mixed = answers(of(Hops::Mixed, 7), requests_in_company(SHORT)).await;
    assert!(mixed == same, "other bits over other hops");
    let exact = reference().await;
    for (rounded, exact) in same.iter().zip(exact) {
        let (digests, top) = (rounded.observed[0].digest, &rounded.observed[0].top);
        assert_ne!(digests, exact.observed[0].digest, "nothing was rounded");
        let near = |(id, logit): &(u32, f32)| {
            exact.observed[0]
                .top
                .iter()
                .find(|(other, _)| other == id)
                .is_none_or(|(_, other)| (logit - other).abs() < 0.5)
        };
        assert!(top.iter().all(near), "{top:?} is far from {:?}", exact.observed[0].top);
    }
}

#[tokio::test]
async fn answers_are_the_same_at_any_stages_over_any_hops() {
    if full_matrix() {
        for stages in [30, 5, 3, 2, 1] {
            for hops in Hops::ALL {
                for chunk in [USUAL_CHUNK, 7, 1] {
                    assert_variant(Variant { chunk, ..Variant::of(stages, hops) }, WHOLE, WHOLE).await;
                }
            }
        }
        return;
    }
    // One stage in memory, in company, is the reference itself.
    for (stages, hops, alone, in_company) in [
        (1, Hops::Memory, WHOLE, 0),
        (1, Hops::Nats, SHORT, HALF),
        (3, Hops::Memory, SHORT, WHOLE),
        (3, Hops::Nats, WHOLE, HALF),
        (3, Hops::Grpc, SHORT, HALF),
        (3, Hops::Shm, SHORT, HALF),
        (4, Hops::Mixed, SHORT, HALF),
        (30, Hops::Memory, 0, HALF),
    ] {
        assert_variant(Variant::of(stages, hops), alone, in_company).await;
    }
}

#[tokio::test]
async fn answers_are_the_same_however_prompts_are_cut() {
    for (stages, hops) in [(1, Hops::Memory), (3, Hops::Nats)] {
        assert_variant(Variant { chunk: 7, ..Variant::of(stages, hops) }, SHORT, SHORT).await;
    }
    for (stages, hops) in [(1, Hops::Nats), (3, Hops::Memory)] {
        assert_variant(Variant { chunk: 1, ..Variant::of(stages, hops) }, SHORT, 0).await;
    }
}

#[tokio::test]
async fn answers_are_the_same_on_any_threads_and_instructions() {
    for isa in Isa::available() {
        for threads in [1, 2] {
            let variant = Variant { threads, isa, chunk: 7, ..Variant::of(3, Hops::Memory) };
            let served = Served::start(SMOLLM2, variant).await;
            // Plain code has no fused multiply-add instruction to use: a token takes it seconds. The last case is short.
            let tokens = if isa.name() == "portable" { 2 } else { 16 };
            let begun = Instant::now();
            let answer = served.answers(vec![golden_requests(tokens).remove(2)]).await;
            assert_same(2, &answer[0], tokens, &variant.to_string()).await;
            served.end().await;
            println!("{variant}: same bits, {tokens} tokens ({:.1?})", begun.elapsed());
        }
    }
}

#[tokio::test]
async fn vectors_are_near_the_references_and_have_the_same_bits_at_any_stages_over_any_hops() {
    let cases = golden_cases(MINILM);
    let requests: Vec<Request> =
        cases.iter().map(|case| Request::new("golden", Input::Tokens(ids(&case["input_ids"])))).collect();
    let mut same: Option<Vec<Answered>> = None;
    let some = if full_matrix() { vec![1, 2, 3, 6] } else { vec![1, 3] };
    for (stages, hops) in some.into_iter().flat_map(|stages| Hops::ALL.map(|hops| (stages, hops))) {
        let variant = Variant::of(stages, hops);
        let served = Served::start(MINILM, variant).await;
        let at_once = served.answers(requests.clone()).await;
        for (i, (answer, case)) in at_once.iter().zip(&cases).enumerate() {
            let want = case["embedding"].as_array().expect("an array");
            assert_eq!(answer.vector.len(), want.len(), "case {i}, {variant}");
            for (got, want) in answer.vector.iter().zip(want) {
                let off = (f64::from(*got) - want.as_f64().expect("a number")).abs();
                assert!(off <= VECTOR_TOLERANCE, "case {i}, {variant}: {got} is {off} off");
            }
            assert_eq!(&served.answers(vec![requests[i].clone()]).await[0], answer, "case {i} alone, {variant}");
        }
        served.end().await;
        assert_eq!(same.get_or_insert_with(|| at_once.clone()), &at_once, "{variant}");
        println!("{variant}: {} vectors, same bits", at_once.len());
    }
}
