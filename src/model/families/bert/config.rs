//! The settings of a BERT-type encoder.

use crate::settings::{MAX_WIDTH, Settings};
use serde_json::json;
use stageline_base::limits::MAX_STAGES;

/// The key that says in a pipeline's config.json that an encoder's vectors are not divided by their lengths, which a
/// model's folder says elsewhere.
pub(super) const AS_IT_IS: &str = "stageline_vectors_as_they_are";
/// `max_position_embeddings` where a configuration is silent.
const UNSAID_POSITIONS: usize = 512;

/// A BERT-type encoder: learned positions, post-layer norm, GELU MLP; the answer is the mean over the sequence's rows, by
/// default of length 1 (sentence-transformers' pooling, as `modules.json` and what it names say if they are there).
#[derive(Clone, Debug, PartialEq)]
pub struct BertSpec {
    /// `num_hidden_layers`.
    pub layers: usize,
    /// `hidden_size`.
    pub hidden: usize,
    /// `intermediate_size`.
    pub intermediate: usize,
    /// `num_attention_heads`, a divisor of `hidden`.
    pub heads: usize,
    /// `vocab_size`.
    pub vocab: usize,
    /// `type_vocab_size`; every row is of type 0.
    pub type_vocab: usize,
    /// `max_position_embeddings`.
    pub max_positions: usize,
    /// `layer_norm_eps`.
    pub norm_eps: f32,
    /// Whether a vector is divided by its length: unless modules.json has no `Normalize`, which is then
    /// `stageline_vectors_as_they_are` in a manifest.
    pub length_one: bool,
}

/// Reads a config.json whose model_type is `bert`; problems are noted in `settings`. Defaults are transformers'.
pub(super) fn read(settings: &mut Settings<'_>) -> BertSpec {
    // The pooler and the heads of pre-training are not part of a sentence's vector.
    settings.inert(&["directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"]);
    settings.inert(&["pooler_size_per_head", "pooler_type", "tie_word_embeddings", "eos_token_id"]);
    settings.only("hidden_act", &[json!("gelu"), json!("gelu_python")]);
    settings.only("position_embedding_type", &[json!("absolute")]);
    settings.only("is_decoder", &[json!(false)]);
    let hidden = settings.count("hidden_size", MAX_WIDTH);
    settings.only("embedding_size", &[json!(hidden)]);
    let heads = settings.count("num_attention_heads", MAX_WIDTH);
    if settings.is_sound() && !hidden.is_multiple_of(heads) {
        settings.problem(format_args!("hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}"));
    }
    BertSpec {
        layers: settings.count("num_hidden_layers", MAX_STAGES),
        hidden,
        intermediate: settings.count("intermediate_size", MAX_WIDTH),
        heads,
        vocab: settings.count("vocab_size", MAX_WIDTH),
        type_vocab: settings.count_if_set("type_vocab_size", MAX_WIDTH).unwrap_or(2),
        max_positions: settings.count_if_set("max_position_embeddings", MAX_WIDTH).unwrap_or(UNSAID_POSITIONS),
        norm_eps: settings.positive("layer_norm_eps", 1e-12) as f32,
        length_one: !settings.flag(AS_IT_IS, false),
    }
}

#[cfg(test)]
mod tests {
    use crate::ModelSpec;
    use serde_json::{Value, json};

    fn parse(change: Value) -> Result<ModelSpec, stageline_base::Fault> {
        let mut config = json!({
            "model_type": "bert", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
            "num_hidden_layers": 3, "vocab_size": 100, "max_position_embeddings": 32,
        });
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        ModelSpec::parse(&config)
    }

    #[test]
    fn settings_are_honoured_or_refused() {
        let spec = parse(json!({"architectures": ["BertModel"], "layer_norm_eps": 1e-5})).unwrap();
        assert_eq!((spec.vocab(), spec.max_positions()), (100, 32));
        let said = format!("{spec:?}");
        assert!(said.contains("type_vocab: 2") && said.contains("norm_eps: 1e-5"), "{said}");
        for (change, said) in [
            (json!({"hidden_act": "gelu_new"}), r#"hidden_act = "gelu_new""#),
            (json!({"position_embedding_type": "relative_key"}), r#"position_embedding_type = "relative_key""#),
            (json!({"is_decoder": true}), "is_decoder = true"),
            (json!({"num_attention_heads": 5}), "is not a multiple of num_attention_heads = 5"),
            (json!({"pruned_heads": {"1": [0]}}), "pruned_heads = "),
            (json!({"embedding_size": 128}), "embedding_size = 128"),
            (json!({"architectures": ["BertForSequenceClassification"]}), "architectures = "),
        ] {
            let fault = parse(change).unwrap_err();
            assert!(fault.message.contains(said), "{said}: {fault}");
        }
    }
}
