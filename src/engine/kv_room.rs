//! How many KV blocks an executor on the CPU has, where nobody says: as many as there is memory for.

use crate::memory_left::MemoryLeft;
use stageline_base::Fault;

/// What of the memory that is left goes to other things, which come and go: batches, prompts, connections. A quarter, within
/// these bounds.
const LEAST_RESERVE: u64 = 64 << 20;
const MOST_RESERVE: u64 = 512 << 20;

/// What an executor would have.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Blocks without which it does not serve, and those that it has a use for.
    pub blocks: (usize, usize),
    /// Bytes of one, in all its layers.
    pub block_bytes: usize,
    /// Positions of one.
    pub block_size: usize,
    /// Its part of what the process may take.
    pub share: f32,
}

impl Wish {
    /// How many of the blocks there is memory for. Memory is taken when a block is first written to, so this bounds what the
    /// executor grows to.
    ///
    /// # Errors
    /// `InvalidRequest` if it is fewer than the least, with what to do.
    pub fn granted(&self, left: &MemoryLeft) -> Result<usize, Fault> {
        let reserve = (left.bytes / 4).clamp(LEAST_RESERVE, MOST_RESERVE);
        let room = (left.bytes.saturating_sub(reserve) as f64 * f64::from(self.share)) as u64;
        let (least, most) = self.blocks;
        let blocks = usize::try_from(room / self.block_bytes.max(1) as u64).unwrap_or(usize::MAX).min(most);
        let Wish { block_bytes, block_size, share, .. } = self;
        if blocks < least {
            return Err(Fault::invalid(format!(
                "the KV cache of one sequence of {} tokens takes {} bytes of memory, but there is room for {room}: {} bytes \
                 are left by {}, {reserve} of them in reserve, and {share:.2} of the rest for this stage. Give the process \
                 more memory, or every stage max_model_len {} or less; kv_blocks takes a number of blocks unasked",
                least * block_size,
                least * block_bytes,
                left.bytes,
                left.bound,
                (blocks * block_size).max(1),
            )));
        }
        tracing::info!(
            blocks,
            tokens = blocks * block_size,
            bytes = blocks * block_bytes,
            left_bytes = left.bytes,
            reserve_bytes = reserve,
            bound = %left.bound,
            "KV cache"
        );
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn granted(left: u64, least: usize, share: f32) -> Result<usize, Fault> {
        let wish = Wish { blocks: (least, 1000), block_bytes: 1 << 20, block_size: 16, share };
        wish.granted(&MemoryLeft { bytes: left * MIB, bound: "memory.max".into() })
    }

    #[test]
    fn what_is_left_beside_a_reserve_becomes_blocks() {
        assert_eq!(granted(100, 1, 1.0), Ok(36), "the least reserve");
        assert_eq!(granted(800, 1, 1.0), Ok(600), "a quarter");
        assert_eq!(granted(800, 1, 0.25), Ok(150), "of several stages");
        assert_eq!(granted(1500, 1, 1.0), Ok(1000), "no more than there is a use for");
        assert_eq!(granted(100_000, 1, 0.01), Ok(994), "the largest reserve");
    }

    #[test]
    fn too_little_for_one_sequence_is_refused_with_what_to_do() {
        assert_eq!(granted(100, 36, 1.0), Ok(36));
        let fault = granted(100, 37, 1.0).unwrap_err().message;
        for words in ["592 tokens", "room for 37748736", "left by memory.max", "max_model_len 576 or less", "kv_blocks"]
        {
            assert!(fault.contains(words), "{words}: {fault}");
        }
        assert!(granted(0, 1, 1.0).is_err());
    }
}
