//! Rows that nobody filled, of a step that was recorded for more.

use crate::ahead::{SEQS, rows, stage};
use crate::pipeline::member;
use stageline_base::Tensors;
use stageline_base::prng::Prng;
use stageline_core::{BatchId, Member, Microbatch};

/// One row more than the steps that are recorded for every number of rows.
const ROWS: usize = 9;
/// Of the sequence whose keys are looked at.
const PROMPT: u32 = 5;

fn batch(members: Vec<Member>) -> Microbatch {
    Microbatch { id: BatchId(0), members }
}

#[test]
fn padding_rows_leave_the_cache_as_it_is() {
    let mut stage = stage();
    let mut random = Prng::new(3);
    let (prompt, next) = (rows(&mut random, PROMPT), rows(&mut random, 1));
    let others: Vec<Tensors> = (0..ROWS).map(|_| rows(&mut random, 1)).collect();
    // The first block, where a row without a place would write if it took 0 for one.
    let of_first = |range| batch(vec![member(0, range, false, vec![0])]);
    let many = batch((1..=ROWS).map(|i| member(i, 0..1, false, vec![i as u32])).collect());
    assert!(ROWS < SEQS && !ROWS.is_power_of_two(), "such a step has no padding");
    let mut after_prompt = |between: bool| {
        stage.run(&of_first(0..PROMPT as usize), std::slice::from_ref(&prompt)).expect("the prompt runs");
        if between {
            stage.run(&many, &others).expect("the others run");
        }
        let at = PROMPT as usize;
        format!("{:?}", stage.run(&of_first(at..at + 1), std::slice::from_ref(&next)).expect("the row runs"))
    };
    assert_eq!(after_prompt(false), after_prompt(true));
}
