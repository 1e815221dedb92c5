//! Every family of decoders on the CPU: the reference's logits, and the same bits however the work is cut.

use crate::decoders::Decoder;
use crate::pipeline::{Pipeline, Variant};

/// Of logits up to 33; a wrong formula is off by more than 1.
const TOLERANCE: f64 = 1e-3;

#[test]
fn logits_are_the_references_in_every_family() {
    for decoder in Decoder::all() {
        let vocab = decoder.llama().vocab;
        let mut whole = Pipeline::load(&decoder.weights, &decoder.spec, Variant::plain(1));
        let want = whole.logits(&decoder.text, 0, vocab);
        let (_, most) = decoder.error(0, &want);
        assert!(most <= TOLERANCE, "{:?}: {most} off", decoder.spec);
        for stages in [2, 4] {
            let mut pipeline = Pipeline::load(&decoder.weights, &decoder.spec, Variant::plain(stages));
            // The text in one piece, in two, and row by row; windows of 5 to 7 begin before and in each.
            for first in [0, 2, 11, decoder.text.len() - 1] {
                let got = pipeline.logits(&decoder.text, first, vocab);
                assert!(got == want[first..], "{:?}: other bits at {stages} stages from {first}", decoder.spec);
            }
        }
    }
}
