//! `kernels/rope_kv.cu`: bias, head norms and rotation of queries and keys, and the way of keys and values into the cache.

use super::Checks;
use super::launch::{DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use cudarc::driver::CudaStream;

const CHECKS: Checks = Checks { kernel: "rope_kv" };
const THREADS: usize = 128;
const MOST_HEAD_DIM: usize = 512;

/// The arguments of one launch.
#[derive(Clone, Copy, Debug)]
pub struct RopeKv<T> {
    /// `[rows, (heads + 2 kv_heads) * head_dim]`: queries, keys, values. The queries are written.
    pub qkv: DeviceSlice<T>,
    /// Added to each row of `qkv`.
    pub bias: Option<DeviceSlice<T>>,
    /// Weights of the queries' RMS norm, `[head_dim]`, of each head on its own.
    pub q_norm: Option<DeviceSlice<T>>,
    /// Weights of the keys' RMS norm, `[head_dim]`, of each head on its own.
    pub k_norm: Option<DeviceSlice<T>>,
    /// `[max_positions, head_dim / 2, 2]`: cosine and sine of each pair's turn.
    pub rotations: DeviceSlice<f32>,
    /// `[rows]`, each below `max_positions`, which only whoever wrote them can have checked.
    pub positions: DeviceSlice<u32>,
    /// `[rows]`: block * `block_size` + place, each below the caches' number of them, which only whoever wrote them can have
    /// checked; below 0, no key and value is written.
    pub slots: DeviceSlice<i32>,
    /// `[blocks, kv_heads, block_size, head_dim]`, written at `slots`.
    pub k_cache: DeviceSlice<T>,
    /// As `k_cache`.
    pub v_cache: DeviceSlice<T>,
    /// Query heads.
    pub heads: usize,
    /// Key heads, and as many value heads.
    pub kv_heads: usize,
    /// Numbers in a head: even, at most 512.
    pub head_dim: usize,
    /// Positions in a block of the cache.
    pub block_size: usize,
    /// Added to the mean of a head's squares.
    pub eps: f32,
}

impl<T: Half> RopeKv<T> {
    fn all_heads(&self) -> usize {
        self.heads.saturating_add(self.kv_heads.saturating_mul(2))
    }

    /// Launches it on `stream`; no rows are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape or not aligned to 16 bytes (a `head_dim` that is no multiple of 8 needs no
    /// alignment), `head_dim` is odd or above 512, there is no head or block, or the driver refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let (head_dim, half) = (self.head_dim, self.head_dim / 2);
        if head_dim == 0 || head_dim % 2 == 1 || head_dim > MOST_HEAD_DIM {
            return Err(CHECKS.fault(format!("heads of {head_dim} numbers: it takes even ones, 2 to {MOST_HEAD_DIM}")));
        }
        if self.heads == 0 || self.kv_heads == 0 || self.block_size == 0 {
            let (heads, kv_heads, block_size) = (self.heads, self.kv_heads, self.block_size);
            return Err(CHECKS.fault(format!("{heads} heads, {kv_heads} kv heads, blocks of {block_size}")));
        }
        let product = |factors: &[usize]| factors.iter().fold(1, |product: usize, n| product.saturating_mul(*n));
        CHECKS.count("numbers a row", product(&[self.all_heads(), head_dim]))?;
        let block = CHECKS.count("numbers a block", product(&[self.kv_heads, self.block_size, head_dim]))? as usize;
        let rows = CHECKS.count("rows", self.positions.len())?;
        let [heads, kv_heads] = [CHECKS.count("heads", self.heads)?, CHECKS.count("kv heads", self.kv_heads)?];
        let block_size = CHECKS.count("positions a block", self.block_size)?;
        CHECKS.shape("slots", self.slots, &[self.positions.len()])?;
        CHECKS.matrix("qkv", self.qkv, &[self.positions.len(), self.all_heads(), head_dim])?;
        if let Some(bias) = self.bias {
            CHECKS.matrix("bias", bias, &[self.all_heads(), head_dim])?;
        }
        for (name, norm) in [("q_norm", self.q_norm), ("k_norm", self.k_norm)] {
            if let Some(norm) = norm {
                CHECKS.matrix(name, norm, &[head_dim])?;
            }
        }
        CHECKS.matrix("rotations", self.rotations, &[self.rotations.len() / head_dim, head_dim])?;
        for (name, cache) in [("k_cache", self.k_cache), ("v_cache", self.v_cache)] {
            let shape = [self.k_cache.len() / block, self.kv_heads, self.block_size, head_dim];
            CHECKS.matrix(name, cache, &shape)?;
        }
        // Rows of the caches are numbered by 32 bits on the device.
        CHECKS.count("rows of a cache", self.k_cache.len() / head_dim)?;
        if rows == 0 {
            return Ok(());
        }
        let lanes = half.div_ceil(8).next_power_of_two();
        let blocks = CHECKS.count("heads", (self.all_heads() * lanes).div_ceil(THREADS))?;
        let arguments = [
            self.qkv.into(),
            self.bias.into(),
            self.q_norm.into(),
            self.k_norm.into(),
            self.rotations.into(),
            self.positions.into(),
            self.slots.into(),
            self.k_cache.into(),
            self.v_cache.into(),
            heads.into(),
            kv_heads.into(),
            (head_dim as u32).into(),
            block_size.into(),
            self.eps.into(),
        ];
        let function = T::of(&kernels.rope_kv);
        // SAFETY: the parameters of `rope_kv_*`; one row of blocks a row of `qkv`, with lanes for all its heads; positions
        // and slots are below what `rotations` and the caches hold, as the fields demand.
        unsafe { launch(stream, (CHECKS.kernel, function), (rows, blocks, 1), THREADS as u32, &arguments) }
    }

    /// What one launch must move, if every row has a slot and a position of its own.
    pub fn traffic(&self) -> Traffic {
        let (rows, head) = (self.positions.len() as u64, self.head_dim as u64 * 2);
        let row = self.all_heads() as u64 * head;
        let bias = if self.bias.is_some() { row } else { 0 };
        let norms = [self.q_norm, self.k_norm].iter().flatten().count() as u64 * head;
        Traffic { read_bytes: rows * (row + 2 * head + 8) + bias + norms, written_bytes: rows * row }
    }
}

/// What one head of `numbers` becomes, before it is rounded to `T`: `bias` is added; then, if `norm` is given, it is normed;
/// then, if `turns` is given (pairs of cosine and sine), rotated.
pub fn oracle<T: Half>(
    numbers: &[T],
    bias: Option<&[T]>,
    norm: Option<&[T]>,
    turns: Option<&[f32]>,
    eps: f32,
) -> Vec<f64> {
    let wide = |number: &T| f64::from(number.to_f32());
    let mut head: Vec<f64> = numbers.iter().map(wide).collect();
    if let Some(bias) = bias {
        head.iter_mut().zip(bias).for_each(|(v, b)| *v += wide(b));
    }
    if let Some(norm) = norm {
        let mean = head.iter().map(|v| v * v).sum::<f64>() / head.len() as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        head.iter_mut().zip(norm).for_each(|(v, w)| *v *= scale * wide(w));
    }
    if let Some(turns) = turns {
        let half = head.len() / 2;
        for (i, turn) in turns.chunks_exact(2).enumerate() {
            let (a, b, cos, sin) = (head[i], head[i + half], f64::from(turn[0]), f64::from(turn[1]));
            head[i] = a * cos - b * sin;
            head[i + half] = b * cos + a * sin;
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn a_head_is_biased_then_normed_then_rotated() {
        let halves = |numbers: [f32; 4]| numbers.map(bf16::from_f32);
        let (head, bias) = (halves([1.0, 2.0, 3.0, 4.0]), halves([1.0, 0.0, 0.0, -4.0]));
        assert_eq!(oracle(&head, Some(&bias), None, None, 0.0), [2.0, 2.0, 3.0, 0.0]);
        // A quarter turn of the first pair, (2, 3), and none of the second, (2, 0).
        let turns = [0.0, 1.0, 1.0, 0.0];
        assert_eq!(oracle(&head, Some(&bias), None, Some(&turns), 0.0), [-3.0, 2.0, 2.0, 0.0]);
        let norm = halves([1.0, 1.0, 2.0, 1.0]);
        let scale = 1.0 / (17.0f64 / 4.0 + 0.5).sqrt();
        let want = [-3.0 * (scale * 2.0), 2.0 * scale, 2.0 * scale, 0.0];
        assert_eq!(oracle(&head, Some(&bias), Some(&norm), Some(&turns), 0.5), want);
    }
}
