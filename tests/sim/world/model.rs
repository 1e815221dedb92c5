//! What the stages of a world compute.

use super::processes::Shape;
use stageline_base::prng::Prng;
use stageline_base::{Border, StageIndex, Task, Tensors, TokenId};
use stageline_core::Input;
use stageline_engine::Executor;
use stageline_engine::fake::{FakeExecutor, FakeSetup, Script, borders, expected, expected_vector};

/// A token that no model has: a batch with it fails.
pub const POISON: TokenId = 1_000_003;

/// A model, and how to tell a right answer of it.
pub trait Model {
    /// Tokens are `0..vocab`.
    fn vocab(&self) -> u32;

    /// Most stages that it can be cut into.
    fn most_stages(&self) -> StageIndex;

    /// What it does in a world.
    fn task(&self, random: &mut Prng) -> Task;

    /// What crosses in front of each stage, and the answer behind them.
    fn borders(&self, stages: StageIndex) -> Vec<Border>;

    /// What a client with this prompt brings.
    fn input(&self, prompt: &[TokenId]) -> Input {
        Input::Tokens(prompt.to_vec())
    }

    /// Loads `stage` of `stages`.
    fn executor(&self, stage: StageIndex, stages: StageIndex, shape: Shape) -> Box<dyn Executor>;

    /// Says what is wrong with `tokens` as the beginning of an answer to `prompt`.
    fn check_tokens(&self, prompt: &[TokenId], tokens: &[TokenId], stages: StageIndex) -> Result<(), String>;

    /// Whether `answer` is the one to `prompt`, where that is tensors.
    fn is_answer(&self, prompt: &[TokenId], answer: &Tensors, stages: StageIndex) -> bool;
}

/// The hash chain of the fake executor.
pub struct HashChain;

const VOCAB: u32 = 97;

impl Model for HashChain {
    fn vocab(&self) -> u32 {
        VOCAB
    }

    fn most_stages(&self) -> StageIndex {
        4
    }

    fn task(&self, random: &mut Prng) -> Task {
        if random.chance(150) { Task::EMBED } else { Task::GENERATE }
    }

    fn borders(&self, stages: StageIndex) -> Vec<Border> {
        borders(stages.into())
    }

    fn executor(&self, stage: StageIndex, stages: StageIndex, shape: Shape) -> Box<dyn Executor> {
        Box::new(FakeExecutor::new(FakeSetup {
            stage,
            last: stage + 1 == stages,
            vocab: VOCAB,
            kv_blocks: shape.kv_blocks,
            block_size: shape.block_size,
            script: Script::default(),
            poison: Some(POISON),
        }))
    }

    fn check_tokens(&self, prompt: &[TokenId], tokens: &[TokenId], stages: StageIndex) -> Result<(), String> {
        let right = expected(prompt, stages, VOCAB, tokens.len());
        if right == tokens { Ok(()) } else { Err(format!("wrong tokens {tokens:?}, right are {right:?}")) }
    }

    fn is_answer(&self, prompt: &[TokenId], answer: &Tensors, stages: StageIndex) -> bool {
        *answer == Tensors::vector(&expected_vector(prompt, stages))
    }
}
