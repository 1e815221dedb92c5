//! What a stage on the engine says while it loads, and what it refuses before.

use crate::pipeline::KV;
use crate::random::Random;
use crate::toy::{on_engine, toy};
use stageline_base::FaultClass;
use stageline_engine::{Numbers, Setup};
use stageline_model::{KvShape, LlamaSpec, ModelSpec, TensorSource};
use stageline_server::load_executor;
use std::thread;

#[test]
fn progress_rises_to_the_stages_bytes() {
    let spec = toy(3);
    let weights = Random::of(&spec);
    let mut told = Vec::new();
    load_executor(&weights, &spec, 1..2, on_engine(Numbers::F16, KV), &mut |bytes| told.push(bytes)).expect("it loads");
    let of_layer = spec.tensors().into_iter().filter(|need| need.name.starts_with("model.layers.1."));
    let bytes: usize = of_layer.map(|need| weights.tensor(&need.name).expect("it is there").bytes.len()).sum();
    assert!(told.is_sorted() && told.len() > 1, "{told:?}");
    assert_eq!(told.last(), Some(&(bytes as u64)));
}

#[test]
fn batches_may_be_larger_than_sequences() {
    let spec = toy(2);
    let setup = Setup { max_model_len: 20, max_rows: 64, ..on_engine(Numbers::Bf16, KV) };
    let mut stage = load_executor(&Random::of(&spec), &spec, 0..2, setup, &mut |_| {}).expect("it loads");
    assert_eq!(stage.warm_up().expect("it warms up").kv_blocks, KV.blocks as u32);
}

#[test]
fn sizes_that_no_kernel_takes_are_refused_before_anything_is_read() {
    let refused = |change: &dyn Fn(&mut LlamaSpec), block_size: usize| {
        let mut llama = toy(2).engine_decoder().expect("a toy is a Llama").clone();
        change(&mut llama);
        let spec = ModelSpec::from(llama);
        let setup = on_engine(Numbers::Bf16, KvShape { block_size, ..KV });
        let mut read = |_| panic!("something was read");
        let fault = load_executor(&Random::of(&spec), &spec, 0..2, setup, &mut read).err().expect("a refusal");
        assert_eq!(fault.class, FaultClass::InvalidRequest, "{fault}");
        fault.message
    };
    assert!(refused(&|_| {}, 24).contains("--block-size"));
    assert!(refused(&|llama| llama.head_dim = 80, 16).contains("not of 80"));
    assert!(refused(&|llama| llama.hidden = 16_385, 16).contains("not of 16385"));
}

#[test]
fn an_executor_is_not_used_on_another_thread() {
    let spec = toy(2);
    let mut stage =
        load_executor(&Random::of(&spec), &spec, 0..2, on_engine(Numbers::Bf16, KV), &mut |_| {}).expect("it loads");
    let elsewhere = thread::scope(|scope| scope.spawn(|| stage.is_done()).join());
    assert!(elsewhere.is_err(), "it was used on another thread");
    assert!(stage.is_done());
}
