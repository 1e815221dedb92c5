//! The fields of a Generate that say how its tokens are drawn.

use crate::inference::GenerateRequest;
use stageline_base::AskedSampling;

impl GenerateRequest {
    /// What it asks for.
    pub fn sampling(&self) -> AskedSampling {
        AskedSampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            top_logits: Some(self.top_logits),
        }
    }

    /// The same request, which asks for that.
    pub fn with_sampling(self, asked: AskedSampling) -> Self {
        let AskedSampling { temperature, top_k, top_p, repetition_penalty, seed, top_logits } = asked;
        let top_logits = top_logits.unwrap_or_default();
        Self { temperature, top_k, top_p, repetition_penalty, seed, top_logits, ..self }
    }
}
