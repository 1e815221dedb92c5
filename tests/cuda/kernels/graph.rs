//! The wrappers in a CUDA graph: recorded once, replayed on other inputs, the same to the bit as launched one by one.

use super::{floats, noise};
use crate::{Array, Device, device};
use cudarc::driver::sys;
use half::bf16;
use stageline_core::Sampling;
use stageline_cuda::kernels::{AddRmsNorm, Embed, Gemv, RopeKv, Sample, SampleRow, SiluMul, sample};
use stageline_cuda::launch::LaunchFault;

const ROWS: usize = 3;
const HIDDEN: usize = 64;
const VOCAB: usize = 96;

/// A toy step: a token goes in, a token comes out, by way of every kernel.
struct Step {
    table: Array<bf16>,
    ids: Array<u32>,
    x: Array<f32>,
    weight: Array<bf16>,
    halves: [Array<bf16>; 3],
    rotations: Array<f32>,
    positions: Array<u32>,
    slots: Array<i32>,
    caches: [Array<bf16>; 2],
    logits: Array<f32>,
    rows: Array<SampleRow>,
    tokens: Array<u32>,
    work: Array<u64>,
}

impl Step {
    fn new(device: &Device, ids: [u32; ROWS]) -> Self {
        let sampling = Sampling { temperature: 1.0, top_k: 20, top_p: 0.9, seed: 7, ..Sampling::GREEDY };
        let rows: Vec<SampleRow> = (0..ROWS).map(|r| SampleRow::new(&sampling, r as u32, 0..0)).collect();
        Self {
            table: device.array(&noise(VOCAB * HIDDEN, 1)),
            ids: device.array(&ids),
            x: device.unset(ROWS * HIDDEN),
            weight: device.array(&noise(2 * HIDDEN * HIDDEN, 2)),
            halves: [HIDDEN, 2 * HIDDEN, HIDDEN].map(|width| device.unset(ROWS * width)),
            rotations: device.array(&floats(8 * 16, 3)),
            positions: device.array(&[0, 3, 7]),
            slots: device.array(&[5, -1, 2]),
            caches: [4, 5].map(|seed| device.array(&noise(2 * 4 * 16, seed))),
            logits: device.unset(ROWS * VOCAB),
            rows: device.array(&rows),
            tokens: device.unset(ROWS),
            work: device.unset(ROWS * sample::work_len(VOCAB)),
        }
    }

    fn launch(&self, device: &Device) -> Result<(), LaunchFault> {
        let (kernels, stream) = (device.kernels, &device.stream);
        let [normed, wide, made] = &self.halves;
        let part = |count: usize| self.weight.slice().part(0..count).expect("there are so many weights");
        let (table, ids, x) = (self.table.slice(), self.ids.slice(), self.x.slice());
        let norm = AddRmsNorm {
            x,
            delta: None,
            weight: part(HIDDEN),
            out: normed.slice(),
            take: None,
            hidden: HIDDEN,
            eps: 1e-5,
        };
        // Two query heads and one of keys and of values, of 16 numbers each, make a row of the hidden size.
        let rope = RopeKv {
            qkv: made.slice(),
            bias: None,
            q_norm: None,
            k_norm: None,
            rotations: self.rotations.slice(),
            positions: self.positions.slice(),
            slots: self.slots.slice(),
            k_cache: self.caches[0].slice(),
            v_cache: self.caches[1].slice(),
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            block_size: 4,
            eps: 1e-5,
        };
        let (n, k) = (2 * HIDDEN, HIDDEN);
        let up = Gemv { weight: part(n * k), input: normed.slice(), bias: None, out: wide.slice(), n, k };
        let head = Gemv { weight: table, input: normed.slice(), bias: None, out: self.logits.slice(), n: VOCAB, k };
        Embed { table, ids, x, hidden: HIDDEN }.launch(kernels, stream)?;
        norm.launch(kernels, stream)?;
        up.launch(kernels, stream)?;
        SiluMul { gate_up: wide.slice(), bias: None, out: made.slice(), width: HIDDEN }.launch(kernels, stream)?;
        rope.launch(kernels, stream)?;
        AddRmsNorm { delta: Some(made.slice()), ..norm }.launch(kernels, stream)?;
        head.launch(kernels, stream)?;
        let (logits, rows, tokens) = (self.logits.slice(), self.rows.slice(), self.tokens.slice());
        let (history, work) = (ids.part(0..0).expect("a part of none"), self.work.slice());
        Sample { logits, rows, history, tokens, work, vocab: VOCAB, blocks: 1 }.launch(kernels, stream)
    }

    /// All that the step made, as bits.
    fn made(&self) -> (Vec<u32>, Vec<u32>, Vec<u16>) {
        let logits = self.logits.read().into_iter().map(f32::to_bits).collect();
        let caches = self.caches.iter().flat_map(Array::read).map(bf16::to_bits).collect();
        (self.tokens.read(), logits, caches)
    }
}

#[test]
fn a_recorded_step_is_the_same_on_other_inputs() {
    let device = device();
    let mut step = Step::new(&device, [1, 2, 3]);
    step.launch(&device).expect("launches");
    let first = step.made();

    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    device.stream.synchronize().expect("what came before has run");
    device.stream.begin_capture(mode).expect("a capture");
    step.launch(&device).expect("launches into the capture");
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = device.stream.end_capture(flags).expect("a valid capture").expect("a graph");

    for ids in [[40, 95, 0], [1, 2, 3]] {
        let apart = Step::new(&device, ids);
        apart.launch(&device).expect("launches");
        let want = apart.made();
        step.ids.write(&ids);
        graph.launch().expect("a replay");
        assert_eq!(step.made(), want, "ids {ids:?}");
        assert_eq!(want == first, ids == [1, 2, 3], "other inputs make other outputs");
    }
}
