//! `kernels/sample.cu`: turns rows of logits into tokens. Its oracle is [`stageline_ops::sample()`]: the same tokens.

use super::Checks;
use super::launch::{DeviceSlice, Kernels, LaunchFault, Traffic, launch};
use cudarc::driver::{CudaStream, DeviceRepr};
use stageline_base::{Position, prng};
use stageline_core::Sampling;
use std::ops::Range;

const CHECKS: Checks = Checks { kernel: "sample" };
const THREADS: u32 = 512;

/// Largest vocabulary: what the sums of weights are bounded for.
const MOST_TOKENS: usize = 1 << 23;
/// What the driver takes as the second number of a grid.
const MOST_ROWS: usize = 65535;
/// Tokens that a block takes at a time.
const PART: usize = 2048;
/// Tokens whose best is kept.
const TILE: usize = 64;
/// Digits that weights are summed by.
const DIGITS: usize = 2048;
/// Blocks for each multiprocessor: two or three run at once. An H100 takes 23 us for 64 greedy rows of 128k tokens with 4, 24
/// with 8 (what a block does once weighs in), 39 with a block for each part.
const BLOCKS_AT_ONCE: usize = 4;

/// Set in a token of whose row no logit is above −∞: the model's numbers have left the range of their type.
pub const NO_NUMBER: u32 = 1 << 31;

/// Into how many blocks to split each of `rows` rows of `vocab` numbers: one for each part, but not many more than the device
/// runs at once.
pub fn blocks(rows: usize, vocab: usize, multiprocessors: usize) -> usize {
    let room = (multiprocessors * BLOCKS_AT_ONCE).div_ceil(rows.max(1));
    room.min(vocab.div_ceil(PART)).max(1)
}

/// Numbers of work space for each row of `vocab` numbers: as `Work` of kernels/include/sampling.cuh.
pub fn work_len(vocab: usize) -> usize {
    let (parts, tiles) = (vocab.div_ceil(PART), vocab.div_ceil(TILE));
    DIGITS + 2 * parts + (tiles + parts + 1).div_ceil(2)
}

/// How one row is sampled, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRow {
    random: u64,
    scale: f32,
    top_k: u32,
    parts: u32,
    penalty: f32,
    history_begin: u32,
    history_end: u32,
}

// The kernel's struct is as long; its fields are in the same order and as wide, so they lie alike.
const _: () = assert!(size_of::<SampleRow>() == 32 && align_of::<SampleRow>() == 8);

// SAFETY: `repr(C)`, of numbers only, without padding: its bytes are the kernel's struct.
unsafe impl DeviceRepr for SampleRow {}

impl SampleRow {
    /// The same as 32-bit words, as a step's other small inputs are.
    pub fn words(&self) -> [u32; size_of::<Self>() / 4] {
        // SAFETY: a `repr(C)` struct of one u64 and six 32-bit numbers has no padding.
        unsafe { std::mem::transmute_copy(self) }
    }

    /// The row that `sampling` asks for the token of `position`. Its history are the ids of `history` in the array that the
    /// launch is given: those before the position, in any order.
    pub fn new(sampling: &Sampling, position: Position, history: Range<u32>) -> Self {
        let hot = sampling.temperature > 0.0;
        let penalises = sampling.repetition_penalty != 1.0 && history.start < history.end;
        Self {
            random: prng::at(sampling.seed, position),
            scale: std::f32::consts::LOG2_E / sampling.temperature,
            top_k: if hot { sampling.top_k } else { 1 },
            parts: if sampling.top_p < 1.0 { ((sampling.top_p * 16_777_216.0).ceil() as u32).max(1) } else { 0 },
            penalty: sampling.repetition_penalty,
            history_begin: if penalises { history.start } else { 0 },
            history_end: if penalises { history.end } else { 0 },
        }
    }
}

/// The arguments of one launch.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// `[rows, vocab]`; the penalty is written into it.
    pub logits: DeviceSlice<f32>,
    /// `[rows]`.
    pub rows: DeviceSlice<SampleRow>,
    /// Where the ids of rows lie, maybe among other words. Each row's range must lie in it, which only whoever wrote the rows can have checked.
    pub history: DeviceSlice<u32>,
    /// `[rows]`, written; with [`NO_NUMBER`] where there is nothing to choose from.
    pub tokens: DeviceSlice<u32>,
    /// `[rows, work_len(vocab)]`: what the launch writes for itself. What it held before does not matter.
    pub work: DeviceSlice<u64>,
    /// Numbers in a row: 1 to 2^23.
    pub vocab: usize,
    /// How many blocks share a row: see [`blocks`].
    pub blocks: usize,
}

impl Sample {
    /// Launches it on `stream`, as two kernels; no rows are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape, `logits` is not aligned to 16 bytes (a vocabulary that is no multiple of 4 needs no
    /// alignment), there are too many rows, the vocabulary is empty or too large, blocks are none or more than parts, or the
    /// driver refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let rows = CHECKS.count("rows", self.rows.len())?;
        if self.vocab == 0 || self.vocab > MOST_TOKENS {
            return Err(CHECKS.fault(format!("rows of {} numbers: it takes 1 to {MOST_TOKENS}", self.vocab)));
        }
        CHECKS.shape("logits", self.logits, &[self.rows.len(), self.vocab])?;
        if self.vocab.is_multiple_of(4) {
            CHECKS.aligned("logits", self.logits)?;
        }
        let parts = self.vocab.div_ceil(PART);
        if self.rows.len() > MOST_ROWS || self.blocks == 0 || self.blocks > parts {
            let (rows, blocks) = (self.rows.len(), self.blocks);
            return Err(CHECKS.fault(format!(
                "{rows} rows in {blocks} blocks each: it takes {MOST_ROWS} at most, in 1 to {parts} blocks"
            )));
        }
        CHECKS.shape("tokens", self.tokens, &[self.rows.len()])?;
        CHECKS.shape("work", self.work, &[self.rows.len(), work_len(self.vocab)])?;
        if rows == 0 {
            return Ok(());
        }
        let (grid, vocab) = ((self.blocks as u32, rows, 1), self.vocab as u32);
        let (logits, rows, work) = (self.logits.into(), self.rows.into(), self.work.into());
        let arguments = [logits, rows, self.history.into(), work, vocab.into()];
        // SAFETY: the parameters of `sample_best`; as many blocks a row of `logits`, `rows` and `work` as there are parts, at
        // most; histories lie in `history`, as the field demands.
        unsafe { launch(stream, (CHECKS.kernel, &kernels.sample_best), grid, THREADS, &arguments) }?;
        let arguments = [logits, rows, work, self.tokens.into(), vocab.into()];
        // SAFETY: the parameters of `sample_draw`; as above, and `tokens` has a number for each row.
        unsafe { launch(stream, (CHECKS.kernel, &kernels.sample_draw), grid, THREADS, &arguments) }
    }

    /// What one launch must move whose rows are penalised for so many ids in all; the writes of that are left out. The later
    /// passes over a row find it in the cache, and `work` is never anywhere else.
    pub fn traffic(&self, history_ids: usize) -> Traffic {
        let (rows, vocab) = (self.rows.len() as u64, self.vocab as u64);
        let history = history_ids as u64 * 4;
        Traffic { read_bytes: rows * (vocab * 4 + size_of::<SampleRow>() as u64) + history, written_bytes: rows * 4 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLING: Sampling =
        Sampling { temperature: 0.5, top_k: 7, top_p: 0.9, repetition_penalty: 1.5, seed: 3, top_logits: 0 };

    #[test]
    fn a_row_says_what_the_specification_computes_once() {
        let row = SampleRow::new(&SAMPLING, 11, 4..9);
        assert_eq!(row.random, prng::at(3, 11));
        assert_eq!((row.scale, row.top_k, row.penalty), (std::f32::consts::LOG2_E * 2.0, 7, 1.5));
        assert_eq!((row.history_begin, row.history_end), (4, 9));
        // 0.9 as an f32 is a bit below it, times 2^24 a whole number.
        assert_eq!(row.parts, 15_099_494);
    }

    #[test]
    fn blocks_fill_the_device_and_no_more() {
        const CHIP: usize = 132;
        assert_eq!([1, 8].map(|rows| blocks(rows, 128_256, CHIP)), [63, 63]);
        assert_eq!([16, 64, 1000].map(|rows| blocks(rows, 128_256, CHIP)), [33, 9, 1]);
        assert_eq!([1, 2048, 2049].map(|vocab| blocks(1, vocab, CHIP)), [1, 1, 2]);
        assert_eq!(blocks(0, 0, 0), 1);
    }

    #[test]
    fn top_p_takes_a_part_at_least_and_all_from_1_on() {
        let parts = |top_p| SampleRow::new(&Sampling { top_p, ..SAMPLING }, 0, 0..0).parts;
        assert_eq!([0.0, -1.0, 1e-9, 0.5].map(parts), [1, 1, 1, 1 << 23]);
        assert_eq!([1.0, 2.0, f32::NAN].map(parts), [0, 0, 0]);
    }

    #[test]
    fn no_heat_is_greedy_and_a_penalty_of_1_has_no_history() {
        for temperature in [0.0, -1.0, f32::NAN] {
            assert_eq!(SampleRow::new(&Sampling { temperature, ..SAMPLING }, 0, 0..1).top_k, 1);
        }
        let row = SampleRow::new(&Sampling { repetition_penalty: 1.0, ..SAMPLING }, 0, 4..9);
        assert_eq!((row.history_begin, row.history_end), (0, 0));
    }
}
