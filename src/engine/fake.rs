//! An executor without a model: it stands in where the server's own cost, its recovery or its load is looked at.
//!
//! Its "model" is a hash chain through the KV memory: a row's value depends on every row before it and on every stage it
//! passed, so a wrong block, a lost row or a mixed-up sequence shows in the tokens. [`expected`] computes the same plainly.

use crate::{Executor, Ready};
use bytes::{BufMut, BytesMut};
use stageline_base::{Border, Fault, HostTensor, Tensors, TokenId};
use stageline_core::batch::trailer_room;
use stageline_core::{Emission, Microbatch, Output};
use std::time::{Duration, Instant};

/// Numbers in an activation row: the two halves of a 64-bit value, as f32 bits.
pub const HIDDEN: usize = 2;

/// What crosses in front of each of `stages` stages, and an encoder's answer behind them.
pub fn borders(stages: usize) -> Vec<Border> {
    let between = (1..stages).map(|_| Border::hidden(HIDDEN));
    std::iter::once(Border::tokens()).chain(between).chain([Border::vector(HIDDEN)]).collect()
}

/// What batches cost where nothing is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Time that a batch takes.
    pub batch_cost: Duration,
    /// Time that each row adds.
    pub row_cost: Duration,
}

/// What a [`FakeExecutor`] is made with.
#[derive(Clone, Debug)]
pub struct FakeSetup {
    /// The stage's place: it enters the hash.
    pub stage: u16,
    /// Whether it is the last.
    pub last: bool,
    /// Tokens are `0..vocab`.
    pub vocab: u32,
    /// KV blocks.
    pub kv_blocks: u32,
    /// Positions in a block.
    pub block_size: u32,
    /// Time that its batches take.
    pub script: Script,
    /// A batch with this token among its rows at stage 0 fails, always.
    pub poison: Option<TokenId>,
}

/// See the module.
pub struct FakeExecutor {
    setup: FakeSetup,
    kv: Vec<u64>,
}

impl FakeExecutor {
    /// Its KV memory is `kv_blocks * block_size` numbers.
    pub fn new(setup: FakeSetup) -> Self {
        let cells = setup.kv_blocks as usize * setup.block_size as usize;
        Self { setup, kv: vec![0; cells] }
    }
}

impl Executor for FakeExecutor {
    fn warm_up(&mut self) -> Result<Ready, Fault> {
        Ok(Ready { kv_blocks: self.setup.kv_blocks, refused_recordings: 0 })
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault> {
        let rows = batch.rows();
        let Script { batch_cost, row_cost } = self.setup.script;
        spend(batch_cost + row_cost * rows as u32);
        let mut activations = BytesMut::with_capacity(rows * HIDDEN * 4 + trailer_room(batch.members.len()));
        let mut emissions = Vec::with_capacity(batch.members.len());
        let inputs = || inputs.iter().filter_map(|input| input.first()).map(|named| &named.tensor);
        let poisoned = |input: &HostTensor| {
            let is = |poison| input.shape().ends_with(&[1]) && input.words().any(|id| id == poison);
            self.setup.poison.is_some_and(is)
        };
        if inputs().any(poisoned) {
            return Err(Fault::device("the fake device fails at this token"));
        }
        let mut given = inputs().flat_map(rows_of);
        for member in &batch.members {
            let encoding = !member.opening.work.cached;
            let mut before = 0;
            let size = self.setup.block_size;
            let cell = |position: u32| -> Option<usize> {
                Some(
                    *member.blocks.get((position / size) as usize)? as usize * size as usize
                        + (position % size) as usize,
                )
            };
            if !encoding && member.start > 0 {
                before = cell(member.start - 1).and_then(|cell| self.kv.get(cell).copied()).unwrap_or(0);
            }
            for (row, x) in given.by_ref().take(member.rows as usize).enumerate() {
                before = link(before, x, self.setup.stage);
                if !encoding {
                    let cell = cell(member.start + row as u32).filter(|cell| *cell < self.kv.len());
                    let cell = cell.ok_or_else(|| Fault::internal("a row lies outside its sequence's blocks"))?;
                    self.kv[cell] = before;
                }
                activations.put_u64_le(before);
            }
            emissions.push(member.emit.then(|| emission(before, self.setup.vocab, encoding)));
        }
        Ok(if self.setup.last { Output::Emissions(emissions) } else { Output::Rows(vec![activations]) })
    }
}

fn rows_of(input: &HostTensor) -> impl Iterator<Item = u64> + '_ {
    let columns = input.shape().last().copied().unwrap_or_default();
    let mut words = input.words();
    std::iter::from_fn(move || {
        let low = u64::from(words.next()?);
        let high = if columns == HIDDEN { u64::from(words.next()?) } else { 0 };
        Some(low | high << 32)
    })
}

fn link(before: u64, x: u64, stage: u16) -> u64 {
    let mut h = before.rotate_left(23) ^ x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(stage) << 56);
    h = (h ^ (h >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^ (h >> 32)
}

fn emission(last: u64, vocab: u32, encoding: bool) -> Emission {
    if encoding {
        Emission::Tensors(Tensors::vector(&[(last >> 40) as f32, (last & 0xff_ffff) as f32]))
    } else {
        Emission::Token { id: (last % u64::from(vocab)) as u32, observed: None }
    }
}

/// What a pipeline of `stages` fake executors makes of `prompt`: `tokens` tokens, or a vector if it encodes.
pub fn expected(prompt: &[TokenId], stages: u16, vocab: u32, tokens: usize) -> Vec<TokenId> {
    let mut known = prompt.to_vec();
    for _ in 0..tokens {
        let Emission::Token { id, .. } = emission(chain(&known, stages), vocab, false) else { break };
        known.push(id);
    }
    known.split_off(prompt.len())
}

/// The vector that a pipeline of `stages` fake executors makes of `prompt`.
pub fn expected_vector(prompt: &[TokenId], stages: u16) -> Vec<f32> {
    match emission(chain(prompt, stages), 1, true) {
        Emission::Tensors(answer) => answer.first().and_then(|named| named.tensor.to_f32()).unwrap_or_default(),
        Emission::Token { .. } => Vec::new(),
    }
}

fn chain(known: &[TokenId], stages: u16) -> u64 {
    let mut state = vec![0; usize::from(stages)];
    let mut x = 0;
    for id in known {
        x = u64::from(*id);
        for (stage, state) in state.iter_mut().enumerate() {
            *state = link(*state, x, stage as u16);
            x = *state;
        }
    }
    x
}

/// Spends `cost` precisely: sleeps most of it, since another thread may need the core, and spins the rest.
fn spend(cost: Duration) {
    if cost.is_zero() {
        return;
    }
    let end = Instant::now() + cost;
    if let Some(most) = cost.checked_sub(Duration::from_micros(200)) {
        std::thread::sleep(most);
    }
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}
