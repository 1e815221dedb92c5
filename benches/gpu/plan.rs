//! What is measured, in which shapes.

use crate::model::Model;
use crate::sizes::{llama_1b, llama_8b};
use stageline_model::LlamaSpec;

/// Shapes and amounts: a GPU's, or toys of every part that the emulated driver runs in seconds.
pub struct Plan {
    /// Models whose products, steps and prefills are measured; the last one's shapes are those of the kernels.
    pub models: Vec<Model>,
    /// The model that is written as a shard.
    pub shard: Model,
    /// Rows that the kernels of single rows are given.
    pub rows: Vec<usize>,
    /// Sequences of a decode attention, and how long each is.
    pub attention: Vec<(usize, usize)>,
    /// Rows of a prefill attention.
    pub prompts: Vec<usize>,
    /// Rows of the products that say what the tensor cores give.
    pub product_rows: usize,
    /// Sequences of a decode step.
    pub batches: Vec<usize>,
    /// Positions of each.
    pub contexts: Vec<usize>,
    /// Rows of a prompt, and of a chunk of it.
    pub prefills: Vec<(usize, usize)>,
    /// How often everything is timed.
    pub rounds: usize,
    /// Decode steps of a round.
    pub steps: usize,
    /// Bytes of a copy at most.
    pub copy_bytes: usize,
    /// Bytes that all launches of a round move together, if they are not too many.
    pub round_bytes: u64,
    /// Launches of a round at most.
    pub most_launches: u64,
    /// How many times the device's cache is read before a round; with none, a few KiB are.
    pub evictions: usize,
}

impl Plan {
    pub fn full() -> Self {
        Self {
            models: vec![Model::new("1B", llama_1b()), Model::new("8B", llama_8b())],
            shard: Model::new("1B", llama_1b()),
            rows: vec![1, 64, 2048],
            attention: vec![(1, 512), (1, 4096), (1, 8192), (8, 4096), (32, 4096), (64, 512), (64, 4096)],
            prompts: vec![512, 2048],
            product_rows: 2048,
            batches: vec![1, 8, 32, 64],
            contexts: vec![512, 4096],
            // 256 is what a server takes if it is told nothing.
            prefills: vec![(512, 256), (512, 512), (2048, 256), (2048, 2048)],
            rounds: 9,
            steps: 20,
            copy_bytes: 1 << 30,
            round_bytes: 512 << 20,
            most_launches: 64,
            evictions: 4,
        }
    }

    pub fn small() -> Self {
        Self {
            models: vec![Model::new("toy", toy())],
            shard: Model::new("toy", toy()),
            rows: vec![1, 4],
            attention: vec![(1, 300), (2, 40)],
            prompts: vec![20],
            product_rows: 16,
            batches: vec![1, 8, 32, 64],
            contexts: vec![16, 24],
            prefills: vec![(24, 8), (24, 24)],
            rounds: 3,
            steps: 1,
            copy_bytes: 1 << 20,
            round_bytes: 0,
            most_launches: 2,
            evictions: 0,
        }
    }

    /// Most rows of a batch, as a server is told with `--max-batch-tokens`.
    pub fn most_rows(&self) -> usize {
        self.prefills.iter().map(|(_, chunk)| *chunk).chain(self.batches.iter().copied()).max().unwrap_or(1)
    }

    /// How many launches, of `bytes` each, make a round: two at least, so that none finds what it has just left.
    pub fn launches(&self, bytes: u64) -> usize {
        (self.round_bytes / bytes.max(1)).clamp(2, self.most_launches) as usize
    }
}

fn toy() -> LlamaSpec {
    LlamaSpec {
        layers: 1,
        hidden: 64,
        intermediate: 96,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        vocab: 160,
        max_positions: 512,
        eos: vec![0],
        ..llama_8b()
    }
}
