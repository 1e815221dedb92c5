//! Every family of decoders on the device, by candle and by the engine: the reference's logits.

use crate::decoders::Decoder;
use crate::engine::on_engine;
use crate::pipeline::{Pipeline, Variant};
use stageline_engine::{DeviceChoice, Numbers, Runner};

/// Of logits up to 33, by how the work is done, the root mean square and the largest: what was found is about half of it, what a
/// wrong formula gives is far above.
const CANDLE: (f64, f64) = (1e-4, 3e-4);
const F16: (f64, f64) = (0.06, 0.4);
const BF16: (f64, f64) = (0.5, 2.5);

/// The worst root mean square and the worst logit of each decoder, for the text in pieces and row by row.
fn assert_near(variant: Variant, (mean_bound, most_bound): (f64, f64)) {
    for decoder in Decoder::all() {
        let mut pipeline = Pipeline::load(&decoder.weights, &decoder.spec, variant);
        if variant.runner != Runner::Candle {
            pipeline.warm_up();
        }
        for first in [0, 11, decoder.text.len() - 1] {
            let logits = pipeline.logits(&decoder.text, first, decoder.llama().vocab);
            let (mean, most) = decoder.error(first, &logits);
            println!("{:?}, from {first}: {mean:.6} off, at most {most:.6}", decoder.llama().sliding);
            assert!(mean <= mean_bound && most <= most_bound, "{:?}: {mean} off, at most {most}", decoder.spec);
        }
    }
}

#[test]
fn logits_of_candle_are_the_references_in_every_family() {
    for stages in [1, 3] {
        let variant = Variant { device: DeviceChoice::Cuda(0), ..Variant::plain(stages) };
        assert_near(variant, CANDLE);
    }
}

#[test]
fn logits_of_the_engine_in_f16_are_near_the_references_in_every_family() {
    assert_near(on_engine(2, Numbers::F16), F16);
}

#[test]
fn logits_of_the_engine_in_bf16_are_near_the_references_in_every_family() {
    assert_near(on_engine(1, Numbers::Bf16), BF16);
}
