//! Every family of Llama-type decoders as a small model of random weights, with the logits that transformers gives.

use crate::random::Random;
use crate::real_models::{golden_cases, ids};
use serde_json::Value;
use stageline_model::{LlamaSpec, ModelSpec};

/// A family's model, and what the reference says of a text.
pub struct Decoder {
    pub spec: ModelSpec,
    pub weights: Random,
    pub text: Vec<u32>,
    /// A position of the text, and the logits after it.
    pub rows: Vec<(usize, Vec<f32>)>,
}

impl Decoder {
    /// All of them: Llama with all its biases and llama3 scaling, Mistral, Qwen2 and Qwen3 with sliding windows.
    pub fn all() -> Vec<Self> {
        golden_cases("decoders").iter().map(Self::of).collect()
    }

    fn of(case: &Value) -> Self {
        let spec = ModelSpec::parse(&case["config"]).expect("transformers wrote the config.json");
        let weights = Random::of(&spec);
        assert_eq!(Some(weights.digest().as_str()), case["weights_sha256"].as_str(), "other weights were drawn");
        let list = |value: &Value| value.as_array().expect("a list").clone();
        let logits = |row: &Value| list(row).iter().map(|logit| logit.as_f64().expect("a number") as f32).collect();
        let row = |row: &Value| (row["position"].as_u64().expect("a position") as usize, logits(&row["row"]));
        let rows = list(&case["logits"]).iter().map(row).collect();
        Self { spec, weights, text: ids(&case["input_ids"]), rows }
    }

    /// Its sizes.
    pub fn llama(&self) -> &LlamaSpec {
        self.spec.engine_decoder().expect("all are decoders")
    }

    /// How far the logits after each position from `first` on are from the reference's: root mean square, and most.
    pub fn error(&self, first: usize, logits: &[Vec<f32>]) -> (f64, f64) {
        assert_eq!(logits.len(), self.text.len() - first);
        let rows = self.rows.iter().filter(|(position, _)| *position >= first);
        let offs: Vec<f64> = rows
            .flat_map(|(position, want)| logits[position - first].iter().zip(want))
            .map(|(got, want)| f64::from((got - want).abs()))
            .collect();
        assert!(!offs.is_empty());
        let mean = offs.iter().map(|off| off * off).sum::<f64>() / offs.len() as f64;
        (mean.sqrt(), offs.iter().copied().fold(0.0, f64::max))
    }
}
