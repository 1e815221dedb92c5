//! The kernels that read the KV cache.

use super::{Bench, Launch, plural};
use crate::device::Memory;
use crate::model::{Model, attention_flops};
use crate::steps::BLOCK_SIZE;
use half::bf16;
use stageline_base::Fault;
use stageline_cuda::kernels::decode_attention::Blocks;
use stageline_cuda::kernels::prefill_attention::Tile;
use stageline_cuda::kernels::{DecodeAttention, Paged, PagedShape, PrefillAttention, prefill_attention};
use stageline_model::LlamaSpec;

pub fn measure(bench: &mut Bench, model: &Model) {
    let (plan, llama) = (bench.plan, &model.llama);
    for &(sequences, length) in &plan.attention {
        let chip = bench.device.gpu.multiprocessors as usize;
        let what = format!("decode_attention, {} of {length}", plural(sequences, "row"));
        bench.line(&what, |memory| decode(memory, llama, (sequences, length), chip));
    }
    for &rows in &plan.prompts {
        let gflop = attention_flops(llama.heads, llama.head_dim, rows) / 1e9;
        let what = format!("prefill_attention, {} ({gflop:.3} GFLOP)", plural(rows, "row"));
        let chip = bench.device.gpu.chip();
        bench.line(&what, |memory| prefill(memory, llama, rows, chip));
    }
}

/// A row each of `sequences`, in a cache where no sequence's blocks are neighbours.
fn decode(
    memory: &Memory,
    llama: &LlamaSpec,
    (sequences, length): (usize, usize),
    chip: usize,
) -> Result<Launch, Fault> {
    let paged = paged(memory, llama, (sequences, sequences), length.div_ceil(BLOCK_SIZE))?;
    let lengths = vec![length; sequences];
    let there = memory.copy(&vec![length as u32; sequences])?;
    let blocks = Blocks::new(&paged.shape, sequences, length, chip);
    let (partial, turns) = (memory.noise(blocks.partial_len())?, memory.copy(&vec![0u32; blocks.count])?);
    let attention = DecodeAttention { paged, lengths: there, blocks, partial, turns };
    Launch::new(attention.traffic(&lengths), move |kernels, stream| attention.launch(kernels, stream))
}

/// A prompt of `rows` rows from its begin.
fn prefill(memory: &Memory, llama: &LlamaSpec, rows: usize, chip: (usize, usize)) -> Result<Launch, Fault> {
    let paged = paged(memory, llama, (rows, 1), rows.div_ceil(BLOCK_SIZE))?;
    let tiles: Vec<Tile> = Tile::cover(0, 0, rows as u32, 0).collect();
    let plan = prefill_attention::Plan::of(&paged.shape, tiles.len(), chip);
    let attention = PrefillAttention { paged, tiles: memory.copy(&tiles)?, plan };
    Launch::new(attention.traffic(&tiles), move |kernels, stream| attention.launch(kernels, stream))
}

/// Queries of `rows` rows of `sequences` sequences, each with `blocks` blocks.
fn paged(
    memory: &Memory,
    llama: &LlamaSpec,
    (rows, sequences): (usize, usize),
    blocks: usize,
) -> Result<Paged<bf16>, Fault> {
    let LlamaSpec { heads, kv_heads, head_dim, .. } = *llama;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let shape = PagedShape { heads, kv_heads, head_dim, block_size: BLOCK_SIZE, window: 0, scale };
    let tables: Vec<i32> = (0..(blocks * sequences) as i32).collect();
    let cache = sequences * blocks * kv_heads * BLOCK_SIZE * head_dim;
    Ok(Paged {
        qkv: memory.noise(rows * shape.row_width())?,
        k_cache: memory.noise(cache)?,
        v_cache: memory.noise(cache)?,
        tables: memory.copy(&tables)?,
        table_stride: sequences,
        out: memory.noise(rows * heads * head_dim)?,
        shape,
    })
}
