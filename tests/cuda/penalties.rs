//! Repetition penalties on the engine: the device applies them, but for what is to be told from before them; and logits that are
//! no numbers are a failure.

use crate::pipeline::{KV, blocks_of, member};
use crate::random::Random;
use crate::toy::{HIDDEN, VOCAB, on_engine, toy};
use stageline_base::prng::Prng;
use stageline_base::{Fault, FaultClass, Task, Tensors};
use stageline_core::{BatchId, Emission, Member, Microbatch, Output, Sampling, Work};
use stageline_engine::{DeviceChoice, Executor, Numbers, Runner, Setup};
use stageline_model::{RawTensor, TensorSource};
use stageline_ops::Isa;
use stageline_server::load_executor;
use std::sync::Arc;

const ROWS: usize = 11;

/// The last layer of a decoder.
fn stage() -> Box<dyn Executor> {
    let spec = toy(2);
    let mut stage =
        load_executor(&Random::of(&spec), &spec, 1..2, on_engine(Numbers::Bf16, KV), &mut |_| {}).expect("it loads");
    stage.warm_up().expect("it warms up");
    stage
}

/// Sequences' first rows, sampled in all ways; `history` says what each is penalised for, `top_logits` how many logits are told.
fn batch(history: impl Fn(usize) -> Vec<u32>, top_logits: u32) -> Microbatch {
    let member = |i: usize| {
        let plain = member(i, 0..1, true, blocks_of(i, ROWS));
        let temperature = [0.0, 0.8, 2.0][i % 3];
        let seed = 5 + i as u64;
        let sampling = Sampling { temperature, top_k: 0, top_p: 0.9, repetition_penalty: 1.7, seed, top_logits };
        let opening =
            Arc::new(stageline_core::Opening { work: Work::of(Task::GENERATE, sampling), ..(*plain.opening).clone() });
        Member { opening, history: Some(history(i).into()), ..plain }
    };
    Microbatch { id: BatchId(0), members: (0..ROWS).map(member).collect() }
}

fn inputs() -> Vec<Tensors> {
    let mut random = Prng::new(9);
    let mut row = || {
        let numbers = (0..HIDDEN).flat_map(|_| (random.below(2000) as f32 / 1000.0 - 1.0).to_le_bytes());
        Tensors::hidden(1, numbers.collect::<bytes::Bytes>()).expect("a row")
    };
    (0..ROWS).map(|_| row()).collect()
}

fn tokens(stage: &mut dyn Executor, batch: &Microbatch) -> Vec<u32> {
    let Output::Emissions(all) = stage.run(batch, &inputs()).expect("the step runs") else { panic!("no tokens") };
    let id = |emission| match emission {
        Some(Emission::Token { id, .. }) => id,
        other => panic!("{other:?} is no token"),
    };
    all.into_iter().map(id).collect()
}

/// Every other token, so that each row's best one is likely to be among them or not.
fn some(i: usize) -> Vec<u32> {
    (0..VOCAB as u32).filter(|id| (id / 3 + i as u32).is_multiple_of(2)).cycle().take(200).collect()
}

#[test]
fn penalised_tokens_are_those_of_the_cpu() {
    let mut stage = stage();
    let none = tokens(&mut *stage, &batch(|_| Vec::new(), 0));
    let by_cpu = tokens(&mut *stage, &batch(some, 1));
    let by_device = tokens(&mut *stage, &batch(some, 0));
    assert_eq!(by_device, by_cpu);
    assert!(
        by_cpu.iter().zip(&none).filter(|(with, without)| with != without).count() > ROWS / 3,
        "{none:?}, {by_cpu:?}"
    );
    // Members without a history lie among those that have one.
    let of_odd = |i: usize| if i % 2 == 1 { some(i) } else { Vec::new() };
    let mixed: Vec<u32> = (0..ROWS).map(|i| if i % 2 == 1 { by_cpu[i] } else { none[i] }).collect();
    assert_eq!(tokens(&mut *stage, &batch(of_odd, 0)), mixed);
}

#[test]
fn histories_that_are_more_than_there_is_room_for_are_left_to_the_cpu() {
    let mut stage = stage();
    // 32 sequences of up to 256 tokens.
    let many = |i: usize| some(i).into_iter().cycle().take(1000).collect();
    let by_device = tokens(&mut *stage, &batch(some, 0));
    assert_eq!(tokens(&mut *stage, &batch(many, 0)), by_device);
    assert_eq!(tokens(&mut *stage, &batch(some, 0)), by_device);
}

/// Weights of which the last layer's are too large for what they are multiplied with.
struct TooLarge(Random);

impl TensorSource for TooLarge {
    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        let mut tensor = self.0.tensor(name)?;
        if name.ends_with("up_proj.weight") {
            // Infinite in bf16, as in f16.
            tensor.bytes = [0x80, 0x7f].repeat(tensor.bytes.len() / 2).into();
        }
        Ok(tensor)
    }
}

#[test]
fn logits_that_are_no_numbers_fail_the_batch() {
    let spec = toy(2);
    let weights = TooLarge(Random::of(&spec));
    let on_cpu =
        Setup { device: DeviceChoice::Cpu(Isa::available()[0]), runner: Runner::Candle, ..on_engine(Numbers::F16, KV) };
    for setup in [on_engine(Numbers::F16, KV), on_engine(Numbers::Bf16, KV), on_cpu] {
        let mut stage = load_executor(&weights, &spec, 1..2, setup, &mut |_| {}).expect("it loads");
        for (history, top_logits) in [(0, 0), (3, 0), (3, 5)] {
            let fault = stage.run(&batch(|_| vec![1; history], top_logits), &inputs()).expect_err("no numbers");
            assert_eq!(fault.class, FaultClass::DeviceFailed, "{fault}");
            assert!(fault.message.contains("overflow at position 0"), "{fault}");
            assert!(!stage.is_lost());
        }
    }
}
