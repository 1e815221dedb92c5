//! How much of the device's memory a KV cache takes. These tests take all that is free: they run one after the other, in a
//! process of their own.

use crate::pipeline::member;
use crate::random::Random;
use crate::toy::{HEAD_DIM, HIDDEN, KV_HEADS, on_engine, toy};
use stageline_base::{FaultClass, Tensors};
use stageline_core::{BatchId, Microbatch};
use stageline_engine::{Executor, Numbers, Setup};
use stageline_model::KvShape;
use stageline_server::load_executor;

const BLOCK: usize = 16;
const LAYERS: usize = 2;
/// Bytes of a block: keys and values of all layers and heads, 2 bytes each.
const BLOCK_BYTES: usize = 2 * LAYERS * KV_HEADS * HEAD_DIM * 2 * BLOCK;
/// More blocks than any device holds.
const ALL: usize = 1 << 27;

/// The last layers of a decoder, whose cache may have `least` to `most` blocks.
fn stage(least: usize, most: usize, to_come: usize) -> Box<dyn Executor> {
    stage_with(least, most, to_come, 1.0)
}

fn stage_with(least: usize, most: usize, to_come: usize, share: f32) -> Box<dyn Executor> {
    let wanted = on_engine(Numbers::F16, KvShape { blocks: most, block_size: BLOCK });
    let setup = Setup { least_blocks: least, to_come, share, max_seqs: 4, ..wanted };
    let spec = toy(1 + LAYERS);
    load_executor(&Random::of(&spec), &spec, 1..1 + LAYERS, setup, &mut |_| {}).expect("the stage loads")
}

fn free_bytes() -> usize {
    let context = cudarc::driver::CudaContext::new(0).expect("device 0");
    context.mem_get_info().expect("the device says").0
}

/// A row of a sequence whose only block is `block`.
fn row_in(block: u32) -> (Microbatch, Vec<Tensors>) {
    let input = Tensors::hidden(1, vec![0x3c; HIDDEN * 4].into()).expect("a row");
    (Microbatch { id: BatchId(0), members: vec![member(0, 0..1, true, vec![block])] }, vec![input])
}

#[test]
fn a_cache_takes_what_is_free_and_every_block_of_it_can_be_used() {
    let mut stage = stage(1, ALL, 0);
    let before = free_bytes();
    let blocks = stage.warm_up().expect("it warms up").kv_blocks;
    let left = free_bytes();
    assert!(left >= 256 << 20, "{left} bytes are left of {before}");
    assert!(left < before / 8, "{left} bytes are left of {before}: blocks are worth more");
    assert!(blocks as usize * BLOCK_BYTES <= before, "{blocks} blocks in {before} bytes");
    let (batch, inputs) = row_in(0);
    let first = format!("{:?}", stage.run(&batch, &inputs).expect("the first block is there"));
    let (batch, inputs) = row_in(blocks - 1);
    assert_eq!(format!("{:?}", stage.run(&batch, &inputs).expect("the last block is there")), first);
    let (batch, inputs) = row_in(blocks);
    assert_eq!(stage.run(&batch, &inputs).expect_err("there is none behind it").class, FaultClass::Internal);
}

#[test]
fn a_cache_is_no_larger_than_it_is_wanted_and_leaves_the_others_their_share() {
    assert_eq!(stage(3, 50, 0).warm_up().expect("it warms up").kv_blocks, 50);
    let mut first = stage(1, ALL, 1);
    let mut second = stage(1, ALL, 0);
    let half = first.warm_up().expect("it warms up").kv_blocks;
    let rest = second.warm_up().expect("it warms up, too").kv_blocks;
    assert!(half.abs_diff(rest) <= half / 4, "{half} and {rest} blocks");
}

/// As processes do that know nothing of each other.
#[test]
fn a_cache_keeps_to_its_share_of_the_device() {
    let all = cudarc::driver::CudaContext::new(0).expect("device 0").total_mem().expect("the device says");
    let mut first = stage_with(1, ALL, 0, 0.25);
    let blocks = first.warm_up().expect("it warms up").kv_blocks as usize;
    assert!((all / 8..=all / 4).contains(&(blocks * BLOCK_BYTES)), "{blocks} blocks of {all} bytes");
    let second = || stage_with(1, ALL, 0, 0.25).warm_up().expect("it warms up").kv_blocks as usize;
    let other = std::thread::scope(|scope| scope.spawn(second).join().expect("the other one is made"));
    assert_eq!(other, blocks, "of a process that shares nothing with the first");
}

#[test]
fn a_device_without_room_for_one_sequence_says_what_to_do() {
    let fault = stage(ALL - 1, ALL, 0).warm_up().expect_err("there is no such device");
    assert_eq!(fault.class, FaultClass::DeviceFailed);
    assert!(fault.message.contains("--max-model-len") && fault.message.contains("needs 134217727"), "{fault}");
}
