//! Which tensors a BERT-type encoder needs. Names are those of the Hugging Face checkpoints, without the `bert.` that some
//! have in front.

use super::config::BertSpec;
use crate::tensors::{Needs, TensorNeed, Use};

/// Every tensor, in the order of use.
pub(crate) fn tensors(spec: &BertSpec) -> Vec<TensorNeed> {
    let (hidden, mlp) = (spec.hidden, spec.intermediate);
    let mut needs = Needs { list: Vec::new(), unit: 0, used: Use::EveryRow };
    needs.add_table("embeddings.word_embeddings.weight", &[spec.vocab, hidden]);
    needs.add_table("embeddings.position_embeddings.weight", &[spec.max_positions, hidden]);
    needs.add_table("embeddings.token_type_embeddings.weight", &[spec.type_vocab, hidden]);
    needs.add_layer_norm("embeddings.LayerNorm", hidden);
    for layer in 0..spec.layers {
        needs.unit = layer;
        let name = |rest: &str| format!("encoder.layer.{layer}.{rest}");
        for projection in ["query", "key", "value"] {
            needs.add_linear(&name(&format!("attention.self.{projection}")), [hidden, hidden], true);
        }
        needs.add_linear(&name("attention.output.dense"), [hidden, hidden], true);
        needs.add_layer_norm(&name("attention.output.LayerNorm"), hidden);
        needs.add_linear(&name("intermediate.dense"), [mlp, hidden], true);
        needs.add_linear(&name("output.dense"), [hidden, mlp], true);
        needs.add_layer_norm(&name("output.LayerNorm"), hidden);
    }
    needs.list
}
