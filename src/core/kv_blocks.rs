//! Which KV blocks of a stage are free.

/// The blocks of one stage, numbered from 0.
#[derive(Debug)]
pub struct KvBlocks {
    total: u32,
    block_size: u32,
    free: Vec<u32>,
}

impl KvBlocks {
    /// `total` free blocks of `block_size` positions each.
    pub fn new(total: u32, block_size: u32) -> Self {
        Self { total, block_size, free: (0..total).rev().collect() }
    }

    /// Blocks that hold `tokens` positions.
    pub fn needed(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_size)
    }

    /// Whether an empty stage could hold `tokens` positions of one sequence.
    pub fn could_ever_hold(&self, tokens: u32) -> bool {
        self.needed(tokens) <= self.total
    }

    /// Takes the blocks for `tokens` positions, all or nothing.
    pub fn take(&mut self, tokens: u32) -> Option<Vec<u32>> {
        let needed = self.needed(tokens) as usize;
        (needed <= self.free.len()).then(|| self.free.split_off(self.free.len() - needed))
    }

    /// Gives blocks back.
    pub fn give_back(&mut self, blocks: &[u32]) {
        debug_assert!(blocks.iter().all(|b| !self.free.contains(b)), "a block was freed twice");
        self.free.extend_from_slice(blocks);
    }

    /// Whether `block` is free.
    pub fn is_free(&self, block: u32) -> bool {
        self.free.contains(&block)
    }

    /// Free blocks.
    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// All blocks.
    pub fn total(&self) -> u32 {
        self.total
    }
}
