//! Small models made up on the spot, written without the code under test.

use serde_json::{Value, json};
use stageline::cli::split::{SplitOrder, split};
use stageline_plan::Goal;
use std::collections::BTreeMap;
use std::path::Path;

/// Tensors by name: type, shape, bytes.
pub type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

/// Layers of the models here.
pub const LAYERS: usize = 4;
const HIDDEN: usize = 8;

/// A safetensors file's bytes: tensors in the order of their names.
pub fn file(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (json!({}), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), data.len() + bytes.len()]});
        data.extend(bytes);
    }
    with_header(header.to_string().as_bytes(), &data)
}

/// A safetensors file's bytes with whatever header.
pub fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// Adds an F32 tensor whose bytes depend on its name.
pub fn add(tensors: &mut Tensors, name: &str, shape: &[usize]) {
    let length = 4 * shape.iter().product::<usize>();
    let seed = name.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let bytes = (0..length as u64).map(|i| ((seed ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    tensors.insert(name.into(), ("F32".into(), shape.to_vec(), bytes));
}

/// The tensors of a Llama-type decoder of 2 heads and 1 KV head, its head tied.
pub fn llama() -> Tensors {
    let mut tensors = Tensors::new();
    add(&mut tensors, "model.embed_tokens.weight", &[40, HIDDEN]);
    add(&mut tensors, "model.norm.weight", &[HIDDEN]);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![12, HIDDEN]),
            ("mlp.up_proj", vec![12, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, 12]),
        ] {
            add(&mut tensors, &format!("model.layers.{layer}.{name}.weight"), &shape);
        }
    }
    tensors
}

/// Its config.json.
pub fn llama_config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 12, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": LAYERS, "vocab_size": 40, "max_position_embeddings": 64,
        "tie_word_embeddings": true, "eos_token_id": null,
    })
}

/// The tensors of a BERT-type encoder, each name after `prefix`.
pub fn bert(prefix: &str) -> Tensors {
    let mut bare = Tensors::new();
    for (name, rows) in [("word", 30), ("position", 16), ("token_type", 2)] {
        add(&mut bare, &format!("embeddings.{name}_embeddings.weight"), &[rows, HIDDEN]);
    }
    let norms =
        (0..LAYERS).flat_map(|k| ["attention.output", "output"].map(|part| format!("encoder.layer.{k}.{part}")));
    for part in norms.chain(["embeddings".into()]) {
        add(&mut bare, &format!("{part}.LayerNorm.weight"), &[HIDDEN]);
        add(&mut bare, &format!("{part}.LayerNorm.bias"), &[HIDDEN]);
    }
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("attention.self.query", [HIDDEN, HIDDEN]),
            ("attention.self.key", [HIDDEN, HIDDEN]),
            ("attention.self.value", [HIDDEN, HIDDEN]),
            ("attention.output.dense", [HIDDEN, HIDDEN]),
            ("intermediate.dense", [12, HIDDEN]),
            ("output.dense", [HIDDEN, 12]),
        ] {
            add(&mut bare, &format!("encoder.layer.{layer}.{name}.weight"), &shape);
            add(&mut bare, &format!("encoder.layer.{layer}.{name}.bias"), &shape[..1]);
        }
    }
    bare.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

/// Its config.json.
pub fn bert_config() -> Value {
    json!({
        "model_type": "bert", "hidden_size": HIDDEN, "intermediate_size": 12, "num_attention_heads": 2,
        "num_hidden_layers": LAYERS, "vocab_size": 30, "max_position_embeddings": 16,
    })
}

/// Writes the folder `dir` around a weights file.
pub fn write(dir: &Path, config: &Value, weights: &[u8]) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), "{}").unwrap();
    std::fs::write(dir.join("model.safetensors"), weights).unwrap();
}

/// The order to cut `model` into `stages`.
pub fn order(model: &Path, out: &Path, stages: usize) -> SplitOrder {
    SplitOrder {
        model_dir: model.into(),
        out: out.into(),
        name: Some("tiny".into()),
        stages,
        goal: Goal::default(),
        stage_memory: vec![],
        max_num_seqs: 4,
        max_model_len: None,
        measure: None,
        json: true,
    }
}

/// Splits; returns the JSON report, or the one line that says what is wrong.
pub fn run(order: &SplitOrder) -> Result<Value, String> {
    let mut out = Vec::new();
    match split(order, &mut out) {
        Ok(()) => Ok(serde_json::from_slice(&out).unwrap()),
        Err(error) => {
            let line = format!("{error:#}");
            assert!(!line.contains('\n'), "more than a line: {line}");
            assert!(out.is_empty(), "a report of what failed");
            Err(line)
        }
    }
}

/// The names in a folder, hidden ones included.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
