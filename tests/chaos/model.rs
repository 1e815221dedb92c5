//! A small decoder of random weights, cut into three stages: its tokens hang on everything before them, so a key that was lost
//! or mixed up shows, and a token takes next to no time.

use crate::random::Random;
use crate::real_models::{SMOLLM2, model_dir};
use crate::tiny;
use serde_json::json;
use stageline_model::{ModelSpec, TensorSource};
use std::path::PathBuf;

pub const STAGES: usize = 3;
/// Tokens that it knows.
pub const VOCAB: u64 = 97;
/// Longest sequence.
pub const MAX_LEN: usize = 1024;

/// The pipeline's folder.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        // No token ends an answer: each has the length that was asked for.
        let config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_hidden_layers": 6, "vocab_size": VOCAB, "max_position_embeddings": MAX_LEN,
            "tie_word_embeddings": true,
        });
        let spec = ModelSpec::parse(&config).expect("a model");
        let weights = Random::of(&spec);
        let tensor = |name: String| {
            let raw = weights.tensor(&name).expect("it is there");
            (name, ("BF16".to_owned(), raw.shape, raw.bytes.to_vec()))
        };
        let tensors: tiny::Tensors = spec.tensors().into_iter().map(|need| tensor(need.name)).collect();
        tiny::write(&model, &config, &tiny::file(&tensors));
        let tokenizer = model_dir(SMOLLM2).join("tokenizer.json");
        std::fs::copy(tokenizer, model.join("tokenizer.json")).expect("a tokenizer");
        tiny::run(&tiny::order(&model, &folder.path().join("pipeline"), STAGES)).expect("the split");
        Self(folder)
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("pipeline")
    }
}
