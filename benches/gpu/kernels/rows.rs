//! The kernels that take each row by itself.

use super::{Bench, Launch, plural};
use crate::device::Memory;
use crate::model::Model;
use crate::steps::BLOCK_SIZE;
use half::bf16;
use stageline_base::Fault;
use stageline_base::prng::Prng;
use stageline_core::Sampling;
use stageline_cuda::kernels::gemv::SumOf;
use stageline_cuda::kernels::{AddRmsNorm, Embed, Gemv, RopeKv, Sample, SampleRow, SiluMul, sample};
use stageline_cuda::launch::DeviceSlice;
use stageline_model::LlamaSpec;
use std::cell::RefCell;

/// Rows of a matrix-vector product.
const GEMV_ROWS: [usize; 3] = [1, 4, 8];

/// Makes a launch of so many rows.
type Make = fn(&Memory, &LlamaSpec, usize) -> Result<Launch, Fault>;

pub fn measure(bench: &mut Bench, model: &Model) -> Result<(), Fault> {
    let plan = bench.plan;
    embed(bench, &model.llama)?;
    let kernels: [(&str, Make); 3] = [("add_rms_norm", add_rms_norm), ("rope_kv", rope_kv), ("silu_mul", silu_mul)];
    for (name, make) in kernels {
        for &rows in &plan.rows {
            bench.line(&format!("{name}, {}", plural(rows, "row")), |memory| make(memory, &model.llama, rows));
        }
    }
    let LlamaSpec { hidden, vocab, .. } = model.llama;
    for rows in GEMV_ROWS {
        for (name, columns, depth) in model.products() {
            let what = format!("gemv, {name}: {rows} x {depth} x {columns}");
            bench.line(&what, |memory| gemv::<bf16>(memory, (rows, columns, depth)));
        }
        let what = format!("gemv, head: {rows} x {hidden} x {vocab}");
        bench.line(&what, |memory| gemv::<f32>(memory, (rows, vocab, hidden)));
    }
    let free = Sampling { temperature: 0.8, ..Sampling::GREEDY };
    let ways = [
        ("greedy", Sampling::GREEDY),
        ("temperature 0.8", free),
        ("top-p 0.9", Sampling { top_p: 0.9, ..free }),
        ("top-k 50, top-p 0.9", Sampling { top_k: 50, top_p: 0.9, ..free }),
    ];
    let chip = bench.device.gpu.multiprocessors as usize;
    for rows in [1, plan.batches.iter().copied().max().unwrap_or(1)] {
        let logits = logits(vocab, rows);
        for (name, how) in &ways {
            let what = format!("sample, {name}, {}", plural(rows, "row"));
            bench.line(&what, |memory| sampling(memory, (vocab, rows, chip), &logits, how));
        }
    }
    Ok(())
}

/// All launches read one table, each other rows of it.
fn embed(bench: &mut Bench, llama: &LlamaSpec) -> Result<(), Fault> {
    let (hidden, vocab) = (llama.hidden, llama.vocab);
    let of_table = Memory::new(bench.device);
    let table = of_table.noise::<bf16>(vocab * hidden)?;
    let prng = RefCell::new(Prng::new(2));
    for rows in &bench.plan.rows {
        bench.line(&format!("embed, {}", plural(*rows, "row")), |memory| {
            let ids: Vec<u32> = (0..*rows).map(|_| prng.borrow_mut().below(vocab as u64) as u32).collect();
            let embed = Embed { table, ids: memory.copy(&ids)?, x: memory.noise(rows * hidden)?, hidden };
            Launch::new(embed.traffic(), move |kernels, stream| embed.launch(kernels, stream))
        });
    }
    Ok(())
}

fn add_rms_norm(memory: &Memory, llama: &LlamaSpec, rows: usize) -> Result<Launch, Fault> {
    let hidden = llama.hidden;
    let norm = AddRmsNorm::<bf16> {
        x: memory.noise(rows * hidden)?,
        delta: Some(memory.noise(rows * hidden)?),
        weight: memory.noise(hidden)?,
        out: memory.noise(rows * hidden)?,
        take: None,
        hidden,
        eps: llama.norm_eps,
    };
    Launch::new(norm.traffic(), move |kernels, stream| norm.launch(kernels, stream))
}

/// Every row has a position and a place in the cache of its own, in order, as in a prompt.
fn rope_kv(memory: &Memory, llama: &LlamaSpec, rows: usize) -> Result<Launch, Fault> {
    let LlamaSpec { heads, kv_heads, head_dim, .. } = *llama;
    let positions: Vec<u32> = (0..rows as u32).collect();
    let slots: Vec<i32> = (0..rows as i32).collect();
    let cache = rows.next_multiple_of(BLOCK_SIZE) * kv_heads * head_dim;
    let rope = RopeKv::<bf16> {
        qkv: memory.noise(rows * (heads + 2 * kv_heads) * head_dim)?,
        bias: None,
        q_norm: None,
        k_norm: None,
        rotations: memory.noise(rows * head_dim)?,
        positions: memory.copy(&positions)?,
        slots: memory.copy(&slots)?,
        k_cache: memory.noise(cache)?,
        v_cache: memory.noise(cache)?,
        heads,
        kv_heads,
        head_dim,
        block_size: BLOCK_SIZE,
        eps: llama.norm_eps,
    };
    Launch::new(rope.traffic(), move |kernels, stream| rope.launch(kernels, stream))
}

fn silu_mul(memory: &Memory, llama: &LlamaSpec, rows: usize) -> Result<Launch, Fault> {
    let width = llama.intermediate;
    let (gate_up, out) = (memory.noise(rows * 2 * width)?, memory.noise(rows * width)?);
    let silu = SiluMul::<bf16> { gate_up, bias: None, out, width };
    Launch::new(silu.traffic(), move |kernels, stream| silu.launch(kernels, stream))
}

fn gemv<O: SumOf<bf16> + 'static>(memory: &Memory, (rows, n, k): (usize, usize, usize)) -> Result<Launch, Fault> {
    let (weight, input) = (memory.noise::<bf16>(n * k)?, memory.noise(rows * k)?);
    let out: DeviceSlice<O> = memory.noise(rows * n)?;
    let gemv = Gemv { weight, input, bias: None, out, n, k };
    Launch::new(gemv.traffic(), move |kernels, stream| gemv.launch(kernels, stream))
}

/// Logits somewhat as a language model's are: normal, of deviation 3, and a few in each row far above the others.
fn logits(vocab: usize, rows: usize) -> Vec<f32> {
    let mut prng = Prng::new(3);
    let mut normal = || 3.0 * ((0..12).map(|_| prng.unit()).sum::<f64>() - 6.0) as f32;
    let some: Vec<f32> = (0..vocab).map(|_| normal()).collect();
    let mut all = Vec::with_capacity(rows * vocab);
    for _ in 0..rows {
        // The same numbers, from another one on.
        let begin = prng.below(vocab as u64) as usize;
        all.extend(some[begin..].iter().chain(&some[..begin]));
        for _ in 0..6 {
            let last = all.len() - 1;
            all[last - prng.below(vocab as u64) as usize] = 14.0 + 6.0 * prng.unit() as f32;
        }
    }
    all
}

fn sampling(
    memory: &Memory,
    (vocab, rows, chip): (usize, usize, usize),
    logits: &[f32],
    how: &Sampling,
) -> Result<Launch, Fault> {
    let all: Vec<SampleRow> = (0..rows as u32).map(|row| SampleRow::new(how, row, 0..0)).collect();
    let sample = Sample {
        logits: memory.copy(logits)?,
        rows: memory.copy(&all)?,
        history: memory.noise(0)?,
        tokens: memory.noise(rows)?,
        work: memory.copy(&vec![0; rows * sample::work_len(vocab)])?,
        vocab,
        blocks: sample::blocks(rows, vocab, chip),
    };
    Launch::new(sample.traffic(0), move |kernels, stream| sample.launch(kernels, stream))
}
