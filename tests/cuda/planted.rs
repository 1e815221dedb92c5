//! Defects of the engine that the emulated driver makes, by leaving out what the engine asks for: the tests that are there for each
//! must see it. What the driver is asked holds for the process: these tests run one after the other, in a process of their own.

use crate::ahead::{SEQS, ahead, alone, rows, stage};
use crate::emulator::{fail_no_more, skip};
use crate::pipeline::{blocks_of, member};
use stageline_base::Tensors;
use stageline_base::prng::Prng;
use stageline_core::{BatchId, Microbatch};
use std::ffi::CStr;

const STEPS: usize = 24;

/// A row of each sequence a step. All steps are of one shape: what is left of one is a step, too, only another.
fn steps() -> Vec<(Microbatch, Vec<Tensors>)> {
    let mut random = Prng::new(7);
    let mut step = |at: usize| {
        let members = (0..SEQS).map(|i| member(i, at..at + 1, true, blocks_of(i, SEQS))).collect();
        (Microbatch { id: BatchId(at as u64), members }, (0..SEQS).map(|_| rows(&mut random, 1)).collect())
    };
    (0..STEPS).map(&mut step).collect()
}

/// How many of the steps come to something else if `call` is left out of all of them, begun ahead or alone.
fn seen_without(call: &CStr, begun_ahead: bool) -> usize {
    let steps = steps();
    let mut stage = stage();
    let want = alone(&mut *stage, &steps);
    assert_eq!(ahead(&mut *stage, &steps), want);
    skip(call, STEPS);
    let got = if begun_ahead { ahead(&mut *stage, &steps) } else { alone(&mut *stage, &steps) };
    fail_no_more();
    got.iter().zip(&want).filter(|(got, want)| got != want).count()
}

#[test]
fn a_step_that_does_not_wait_for_its_inputs_is_seen() {
    assert!(seen_without(c"cuStreamWaitEvent", true) > 0);
}

#[test]
fn a_step_with_the_block_tables_and_positions_of_the_one_before_is_seen() {
    assert!(seen_without(c"cuMemcpyDtoDAsync_v2", false) > STEPS / 2);
}

#[test]
fn inputs_that_never_go_up_are_seen() {
    assert!(seen_without(c"cuMemcpyHtoDAsync_v2", false) > STEPS / 2);
}

#[test]
fn results_that_are_read_before_they_are_there_are_seen() {
    assert!(seen_without(c"cuEventSynchronize", true) > 0);
}

#[test]
fn results_that_never_come_down_are_seen() {
    assert!(seen_without(c"cuMemcpyDtoHAsync_v2", true) > STEPS / 2);
}

#[test]
fn a_recorded_step_that_is_not_launched_is_seen() {
    assert!(seen_without(c"cuGraphLaunch", true) > 0);
}
