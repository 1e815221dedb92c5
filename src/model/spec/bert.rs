//! The settings of a BERT-type encoder.

use super::settings::{MAX_WIDTH, Settings};
use super::{BertSpec, ModelSpec, inert};
use serde_json::json;
use stageline_base::limits::MAX_STAGES;

/// Entries of `architectures` whose encoder, and nothing else, is what is run.
pub(super) const ARCHITECTURES: [&str; 4] =
    ["BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForNextSentencePrediction"];
/// `max_position_embeddings` where a configuration is silent.
const UNSAID_POSITIONS: usize = 512;

/// Reads a config.json whose model_type is `bert`; problems are noted in `settings`. Defaults are transformers'.
pub(super) fn read(settings: &mut Settings<'_>) -> BertSpec {
    inert::strike_off(settings);
    // The pooler and the heads of pre-training are not part of a sentence's vector.
    settings.inert(&["directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"]);
    settings.inert(&["pooler_size_per_head", "pooler_type", "tie_word_embeddings", "eos_token_id"]);
    settings.architectures(&ARCHITECTURES);
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
        length_one: !settings.flag(ModelSpec::AS_IT_IS, false),
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
        let ModelSpec::Bert(spec) = parse(json!({"architectures": ["BertModel"], "layer_norm_eps": 1e-5})).unwrap()
        else {
            panic!("not an encoder")
        };
        assert_eq!((spec.type_vocab, spec.norm_eps, spec.max_positions), (2, 1e-5, 32));
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
