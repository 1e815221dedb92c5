//! Weights of several types in one checkpoint: the same bits as the same numbers, all of one type.

use crate::decoders::Decoder;
use crate::pipeline::{Pipeline, Variant};
use half::{bf16, f16};
use safetensors::Dtype;
use stageline_base::Fault;
use stageline_model::{RawTensor, TensorSource};

/// Weights that are rounded to the type that `dtype` gives each, and stored in that, or in F32.
struct Retyped<'a> {
    of: &'a dyn TensorSource,
    dtype: fn(&str) -> Dtype,
    widened: bool,
}

impl TensorSource for Retyped<'_> {
    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        let RawTensor { shape, bytes, .. } = self.of.tensor(name)?;
        let dtype = (self.dtype)(name);
        let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from(bf16::from_le_bytes(*bytes)) * 1.001);
        let stored = numbers.flat_map(|number| match (dtype, self.widened) {
            (Dtype::BF16, false) => bf16::from_f32(number).to_le_bytes().to_vec(),
            (Dtype::F16, false) => f16::from_f32(number).to_le_bytes().to_vec(),
            (Dtype::F64, false) => f64::from(number).to_le_bytes().to_vec(),
            (Dtype::BF16, true) => bf16::from_f32(number).to_f32().to_le_bytes().to_vec(),
            (Dtype::F16, true) => f16::from_f32(number).to_f32().to_le_bytes().to_vec(),
            _ => number.to_le_bytes().to_vec(),
        });
        let bytes: Vec<u8> = stored.collect();
        Ok(RawTensor { dtype: if self.widened { Dtype::F32 } else { dtype }, shape, bytes: bytes.into() })
    }
}

#[test]
fn weights_of_several_types_compute_as_if_they_were_of_one() {
    let mixes: [fn(&str) -> Dtype; 4] = [
        |name| if name.ends_with("norm.weight") { Dtype::F32 } else { Dtype::BF16 },
        |name| if name == "lm_head.weight" || name.contains("embed") { Dtype::F32 } else { Dtype::F16 },
        // Those that are multiplied as one.
        |name| match name {
            name if name.contains("q_proj") || name.contains("up_proj") => Dtype::F32,
            name if name.contains("v_proj") => Dtype::F16,
            _ => Dtype::BF16,
        },
        |name| if name.contains("layers.1.") || name.ends_with("bias") { Dtype::F64 } else { Dtype::BF16 },
    ];
    for decoder in Decoder::all() {
        let vocab = decoder.llama().vocab;
        for (number, dtype) in mixes.into_iter().enumerate() {
            let [mixed, one] = [false, true].map(|widened| {
                let weights = Retyped { of: &decoder.weights, dtype, widened };
                Pipeline::load(&weights, &decoder.spec, Variant::plain(2)).logits(&decoder.text, 0, vocab)
            });
            assert!(mixed == one, "mix {number} of {:?}", decoder.spec);
        }
    }
}
