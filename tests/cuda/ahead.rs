//! Steps that are given to the device while others run: each must find its own inputs, whatever order the device takes.

use crate::pipeline::{KV, blocks_of, member};
use crate::random::Random;
use crate::toy::{HIDDEN, on_engine, toy};
use bytes::Bytes;
use stageline_base::Tensors;
use stageline_base::prng::Prng;
use stageline_core::{BatchId, Member, Microbatch};
use stageline_engine::{Executor, Numbers, Setup};
use stageline_server::load_executor;

pub const SEQS: usize = 16;
const STEPS: usize = 24;
/// Rows of a prompt's piece.
const PIECE: u32 = 5;

/// Two layers amid a model, for up to [`SEQS`] sequences at once: what comes out shows every bit.
pub fn stage() -> Box<dyn Executor> {
    let setup = Setup { max_seqs: SEQS, ..on_engine(Numbers::Bf16, KV) };
    let spec = toy(4);
    let mut stage = load_executor(&Random::of(&spec), &spec, 1..3, setup, &mut |_| {}).expect("the stage loads");
    stage.warm_up().expect("it warms up");
    stage
}

/// `rows` rows of random activations.
pub fn rows(random: &mut Prng, rows: u32) -> Tensors {
    let numbers = (0..rows as usize * HIDDEN).flat_map(|_| (random.below(2000) as f32 / 1000.0 - 1.0).to_le_bytes());
    Tensors::hidden(rows as usize, numbers.collect::<Bytes>()).expect("whole rows")
}

/// Steps of all kinds and sizes over [`SEQS`] sequences, each of which goes on where it stopped.
fn steps() -> Vec<(Microbatch, Vec<Tensors>)> {
    let mut random = Prng::new(11);
    let mut at = [0u32; SEQS];
    let mut step = |number: usize| {
        let count = 1 + random.below(SEQS as u64) as usize;
        let first = random.below(SEQS as u64) as usize;
        // Single rows lie in front.
        let pieces = random.below(2) as usize;
        let mut one = |i: usize| {
            let sequence = (first + i) % SEQS;
            let (from, count) = (at[sequence], if i + pieces >= count { PIECE } else { 1 });
            at[sequence] += count;
            (
                member(sequence, from as usize..(from + count) as usize, true, blocks_of(sequence, SEQS)),
                rows(&mut random, count),
            )
        };
        let (members, inputs): (Vec<Member>, Vec<Tensors>) = (0..count).map(&mut one).unzip();
        (Microbatch { id: BatchId(number as u64), members }, inputs)
    };
    (0..STEPS).map(&mut step).collect()
}

/// What each step gives, the next one begun only when it has run.
pub fn alone(stage: &mut dyn Executor, steps: &[(Microbatch, Vec<Tensors>)]) -> Vec<String> {
    let one = |(batch, inputs): &(Microbatch, Vec<Tensors>)| stage.run(batch, inputs).expect("the step runs");
    steps.iter().map(one).map(|output| format!("{output:?}")).collect()
}

/// What each step gives, the next one begun before it has run.
pub fn ahead(stage: &mut dyn Executor, steps: &[(Microbatch, Vec<Tensors>)]) -> Vec<String> {
    let mut ahead = Vec::new();
    for (number, (batch, inputs)) in steps.iter().enumerate() {
        if number == 0 {
            stage.start(batch, inputs).expect("the first step begins");
        }
        if let Some((batch, inputs)) = steps.get(number + 1) {
            stage.start(batch, inputs).expect("the next step begins");
        }
        ahead.push(format!("{:?}", stage.run(batch, inputs).expect("the step runs")));
    }
    assert!(stage.is_done(), "something is left");
    ahead
}

#[test]
fn steps_begun_while_others_run_give_what_they_give_alone() {
    let steps = steps();
    let mut stage = stage();
    let alone = alone(&mut *stage, &steps);
    assert!(
        alone.iter().collect::<std::collections::BTreeSet<_>>().len() > STEPS / 2,
        "the steps tell each other apart"
    );
    // Keys and values are written again, by the same steps in the same order.
    assert_eq!(ahead(&mut *stage, &steps), alone);
}

#[test]
fn more_steps_at_once_than_there_are_buffers_are_refused() {
    let steps = steps();
    let mut stage = stage();
    for (batch, inputs) in &steps[..2] {
        stage.start(batch, inputs).expect("there is room");
    }
    let fault = stage.start(&steps[2].0, &steps[2].1).expect_err("there is no room");
    assert!(fault.message.contains("at once"), "{fault}");
    for (batch, inputs) in &steps[..2] {
        stage.run(batch, inputs).expect("what had begun runs");
    }
}
