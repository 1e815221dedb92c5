//! The settings of a Llama-type decoder.

use super::relatives::{Relative, sliding};
use super::rope;
use super::spec::LlamaSpec;
use crate::settings::{MAX_WIDTH, Settings};
use serde_json::{Value, json};
use stageline_base::limits::MAX_STAGES;

/// Reads the config.json of a `relative` of Llama; problems are noted in `settings`. Defaults are transformers'.
pub(super) fn read(settings: &mut Settings<'_>, relative: Relative) -> LlamaSpec {
    settings.only("hidden_act", &[json!("silu"), json!("swish")]);
    // Into how many products one was cut in training: their sum is the product.
    settings.count_if_set("pretraining_tp", MAX_WIDTH);
    settings.flag("is_decoder", true);
    settings.only("is_causal", &[json!(true)]);
    settings.only("is_llama_config", &[json!(true)]);

    let hidden = settings.count("hidden_size", MAX_WIDTH);
    let heads = settings.count("num_attention_heads", MAX_WIDTH);
    let unsaid = if settings.says("num_key_value_heads") { None } else { relative.unsaid_kv_heads() };
    let kv_heads = settings.count_if_set("num_key_value_heads", MAX_WIDTH).or(unsaid).unwrap_or(heads);
    let head_dim = settings.count_if_set("head_dim", MAX_WIDTH).or(relative.unsaid_head_dim());
    if settings.is_sound() {
        check_heads(settings, hidden, (heads, kv_heads), head_dim);
    }
    let head_dim = head_dim.unwrap_or(hidden / heads);
    let max_positions = settings.count_if_set("max_position_embeddings", MAX_WIDTH);
    let max_positions = max_positions.unwrap_or(relative.unsaid_positions());
    let (rope_theta, rope_scaling) = rope::read(settings);
    let [attention_bias, mlp_bias] = ["attention_bias", "mlp_bias"].map(|key| {
        if relative.flags().contains(&key) {
            return settings.flag(key, false);
        }
        settings.only(key, &[json!(false)]);
        false
    });
    let layers = settings.count("num_hidden_layers", MAX_STAGES);
    LlamaSpec {
        layers,
        hidden,
        intermediate: settings.count("intermediate_size", MAX_WIDTH),
        heads,
        kv_heads,
        head_dim,
        vocab: settings.count("vocab_size", MAX_WIDTH),
        max_positions,
        norm_eps: settings.positive("rms_norm_eps", 1e-6) as f32,
        rope_theta,
        rope_scaling,
        tied: settings.flag("tie_word_embeddings", false),
        qkv_bias: attention_bias || relative == Relative::Qwen2,
        out_bias: attention_bias,
        mlp_bias,
        head_norms: relative == Relative::Qwen3,
        sliding: sliding(settings, relative, (layers, max_positions)),
        eos: if settings.says("eos_token_id") {
            tokens(settings, "eos_token_id")
        } else {
            relative.unsaid_eos().into()
        },
    }
}

/// Whether the heads divide what they must.
fn check_heads(settings: &mut Settings<'_>, hidden: usize, (heads, kv_heads): (usize, usize), head_dim: Option<usize>) {
    if !heads.is_multiple_of(kv_heads) {
        settings.problem(format_args!(
            "num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}"
        ));
    }
    if head_dim.is_none() && !hidden.is_multiple_of(heads) {
        settings.problem(format_args!("hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}"));
        return;
    }
    let head_dim = head_dim.unwrap_or(hidden / heads);
    if !head_dim.is_multiple_of(2) {
        settings.problem(format_args!("head_dim = {head_dim} is not even: rotary embedding turns pairs"));
    }
    if heads * head_dim > MAX_WIDTH {
        settings.problem(format_args!("num_attention_heads × head_dim = {} is over {MAX_WIDTH}", heads * head_dim));
    }
}

/// A token id, a list of them, or none.
fn tokens(settings: &mut Settings<'_>, key: &str) -> Vec<u32> {
    let Some(value) = settings.take(key) else { return Vec::new() };
    let token = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let tokens = match value {
        Value::Array(list) => list.iter().map(token).collect(),
        one => token(one).map(|token| vec![token]),
    };
    tokens.unwrap_or_else(|| {
        settings.refuse(key, value, "a token id or a list of them");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use crate::ModelSpec;
    use crate::families::llama::{RopeScaling, Sliding};
    use serde_json::{Value, json};

    fn config(change: Value) -> Value {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 100, "max_position_embeddings": 256,
        });
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn decoder(config: &Value) -> super::LlamaSpec {
        ModelSpec::parse(config).unwrap().engine_decoder().unwrap().clone()
    }

    fn llama(change: Value) -> super::LlamaSpec {
        decoder(&config(change))
    }

    #[test]
    fn settings_are_honoured() {
        let spec = llama(json!({}));
        assert_eq!((spec.head_dim, spec.norm_eps, spec.rope_theta, spec.tied), (16, 1e-6, 10_000.0, false));
        assert_eq!((spec.eos, spec.rope_scaling), (vec![2], None));
        assert_eq!(llama(json!({"num_key_value_heads": null})).kv_heads, 4);
        assert_eq!(llama(json!({"head_dim": 32})).head_dim, 32);
        assert_eq!(llama(json!({"eos_token_id": 2})).eos, [2]);
        assert_eq!(llama(json!({"eos_token_id": [2, 7]})).eos, [2, 7]);
        assert_eq!(llama(json!({"eos_token_id": null})).eos, [0_u32; 0]);
        let spec = llama(json!({"attention_bias": true}));
        assert!(spec.qkv_bias && spec.out_bias && !spec.mlp_bias && spec.sliding.is_none() && !spec.head_norms);
        let linear = json!({"type": "linear", "factor": 2});
        assert_eq!(llama(json!({"rope_scaling": linear})).rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128});
        let spec = llama(json!({"rope_theta": 5e5, "rope_scaling": llama3}));
        assert!(matches!(spec.rope_scaling, Some(RopeScaling::Llama3 { original_max_positions: 128, .. })));
        let spec = llama(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "dtype": "bfloat16"}));
        assert_eq!((spec.rope_theta, spec.rope_scaling), (5e5, None));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name_and_value() {
        for (change, said) in [
            (json!({"hidden_act": "gelu"}), r#"hidden_act = "gelu""#),
            (json!({"sliding_window": 255}), "sliding_window = 255"),
            (json!({"use_sliding_window": true}), "use_sliding_window = true"),
            (json!({"quantization_config": {"bits": 4}}), r#"quantization_config = {"bits":4}"#),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor = 0.5"),
            (json!({"attention_multiplier": 0.1}), "attention_multiplier = 0.1"),
            (json!({"embedding_multiplier": 12.0}), "embedding_multiplier = 12.0"),
            (json!({"residual_multiplier": 0.2}), "residual_multiplier = 0.2"),
            (json!({"logits_scaling": 8}), "logits_scaling = 8"),
            (json!({"pretraining_tp": 0}), "pretraining_tp = 0"),
            (json!({"use_mrope": true}), "use_mrope = true"),
            (json!({"rope_interleaved": true}), "rope_interleaved = true"),
            (json!({"rope_scaling": {"type": "yarn", "factor": 4}}), r#"rope_type = "yarn""#),
            (json!({"rope_scaling": {"type": "dynamic", "factor": 4}}), r#"rope_type = "dynamic""#),
            (json!({"rope_scaling": {"rope_type": "longrope"}}), r#"rope_type = "longrope""#),
            (json!({"rope_scaling": {"rope_type": "linear"}}), "factor is missing"),
            (json!({"rope_scaling": {"rope_type": "linear", "factor": 2, "warp": 1}}), "warp = 1 is not known"),
            (json!({"rope_scaling": {"rope_type": "linear", "type": "llama3"}}), "rope_type and type differ"),
            (json!({"rope_scaling": 3}), "rope_scaling is not a JSON object"),
            (json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}), "differ"),
            (json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {}}), "differ"),
            (json!({"rotary_pct": 0.25}), "rotary_pct = 0.25"),
            (json!({"rotary_emb_base": 500}), "rotary_emb_base = 500"),
            (json!({"rope_type": "yarn"}), r#"rope_type = "yarn""#),
            (json!({"head_dim": 15}), "head_dim = 15 is not even"),
            (json!({"num_attention_heads": 3}), "num_attention_heads = 3 is not a multiple of num_key_value_heads = 2"),
            (json!({"hidden_size": 66}), "hidden_size = 66 is not a multiple of num_attention_heads = 4"),
            (json!({"num_hidden_layers": 0}), "num_hidden_layers = 0"),
            (json!({"vocab_size": null}), "vocab_size is missing"),
            (json!({"vocab_size": -5}), "vocab_size = -5"),
            (json!({"hidden_size": 1e30}), "hidden_size = 1e+30"),
            (json!({"rms_norm_eps": "small"}), r#"rms_norm_eps = "small""#),
            (json!({"tie_word_embeddings": 1}), "tie_word_embeddings = 1"),
            (json!({"eos_token_id": "</s>"}), r#"eos_token_id = "</s>""#),
            (json!({"architectures": ["LlamaForSequenceClassification"]}), "architectures = "),
            (json!({"moe_experts": 8}), "moe_experts = 8 is not known"),
            (json!({"model_type": "mixtral"}), r#"model_type = "mixtral" is not supported"#),
            (json!({"model_type": null}), "model_type = null is not supported"),
        ] {
            let fault = ModelSpec::parse(&config(change)).unwrap_err();
            assert!(fault.message.contains(said), "{said}: {fault}");
            assert!(!fault.message.contains('\n'), "{fault}");
        }
        assert!(ModelSpec::parse(&json!([1])).is_err());
    }

    fn of(model_type: &str, change: Value) -> super::LlamaSpec {
        let mut change = change;
        change["model_type"] = json!(model_type);
        llama(change)
    }

    fn sliding(window: usize, layers: &[usize]) -> Option<Sliding> {
        Some(Sliding { window, layers: layers.iter().copied().collect() })
    }

    #[test]
    fn relatives_are_read_by_their_own_rules() {
        let mistral = |change: Value| of("mistral", change);
        assert_eq!(mistral(json!({"sliding_window": 9})).sliding, sliding(9, &[0, 1, 2]));
        assert_eq!(mistral(json!({"sliding_window": null})).sliding, None);
        assert_eq!(mistral(json!({})).sliding, sliding(4096, &[0, 1, 2]));

        let qwen2 = |change: Value| of("qwen2", change);
        let spec = qwen2(json!({"sliding_window": 9, "max_window_layers": 1}));
        assert_eq!((spec.sliding, spec.qkv_bias, spec.out_bias, spec.head_norms), (None, true, false, false));
        let windows = |first: u64| json!({"use_sliding_window": true, "sliding_window": 9, "max_window_layers": first});
        assert_eq!(qwen2(windows(1)).sliding, sliding(9, &[1, 2]));
        assert_eq!(qwen2(windows(0)).sliding, sliding(9, &[0, 1, 2]));
        assert_eq!(qwen2(windows(3)).sliding, None);
        let mut typed = windows(0);
        typed["layer_types"] = json!(["full_attention", "sliding_attention", "full_attention"]);
        assert_eq!(qwen2(typed).sliding, sliding(9, &[1]));

        let spec = of("qwen3", json!({}));
        assert_eq!((spec.head_dim, spec.qkv_bias, spec.head_norms, spec.sliding), (128, false, true, None));
        let spec = of("qwen3", json!({"head_dim": 32, "attention_bias": true}));
        assert_eq!((spec.head_dim, spec.qkv_bias, spec.out_bias), (32, true, true));
    }

    #[test]
    fn what_relatives_are_silent_about_is_as_in_their_reference() {
        let silent = |model_type: &str, heads: usize| {
            let mut config =
                config(json!({"model_type": model_type, "num_attention_heads": heads, "hidden_size": heads * 8}));
            config.as_object_mut().unwrap().remove("num_key_value_heads");
            decoder(&config).kv_heads
        };
        assert_eq!(["llama", "mistral", "qwen2", "qwen3"].map(|family| silent(family, 64)), [64, 8, 32, 32]);
        let null = json!({"num_key_value_heads": null});
        assert_eq!(["mistral", "qwen2", "qwen3"].map(|family| of(family, null.clone()).kv_heads), [4, 4, 4]);
    }

    #[test]
    fn what_relatives_do_not_support_is_refused_by_name_and_value() {
        for (model_type, change, said) in [
            ("mistral", json!({"attention_bias": true}), "attention_bias = true"),
            ("mistral", json!({"sliding_window": 0}), "sliding_window = 0"),
            ("mistral", json!({"layer_types": []}), "layer_types = [] is not full_attention"),
            ("mistral", json!({"architectures": ["LlamaForCausalLM"]}), "architectures = "),
            ("qwen2", json!({"mlp_bias": true}), "mlp_bias = true"),
            ("qwen2", json!({"max_window_layers": -1}), "max_window_layers = -1"),
            ("qwen2", json!({"layer_types": ["full_attention"]}), "for each of 3 layers"),
            (
                "qwen3",
                json!({"layer_types": ["full_attention", "chunked_attention", "full_attention"]}),
                "layer_types = ",
            ),
            (
                "qwen3",
                json!({"layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
                "no other setting",
            ),
            ("qwen3", json!({"num_experts": 8}), "num_experts = 8 is not supported"),
        ] {
            let mut change = change;
            change["model_type"] = json!(model_type);
            let fault = ModelSpec::parse(&config(change)).unwrap_err();
            assert!(fault.message.contains(said), "{said}: {fault}");
        }
    }

    #[test]
    fn a_window_that_is_off_or_that_nothing_reaches_is_none() {
        for change in [
            json!({"sliding_window": 256}),
            json!({"sliding_window": 4096, "layer_types": ["full_attention", "full_attention", "full_attention"]}),
            json!({"sliding_window": 9, "use_sliding_window": false}),
        ] {
            assert_eq!(llama(change.clone()), llama(json!({})), "{change}");
        }
        let mistral = json!({"sliding_window": 9, "use_sliding_window": false, "model_type": "mistral"});
        let fault = ModelSpec::parse(&config(mistral)).unwrap_err();
        assert!(fault.message.contains("use_sliding_window = false, but sliding_window is set"), "{fault}");
    }

    #[test]
    fn what_repeats_another_setting_or_asks_for_nothing_changes_nothing() {
        let full = json!(["full_attention", "full_attention", "full_attention"]);
        for change in [
            json!({"rotary_pct": 1.0, "rotary_emb_base": 10_000, "rope_type": "default"}),
            json!({"original_max_position_embeddings": 128, "rope_scaling": null, "rope_parameters": null}),
            json!({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}, "dtype": "bfloat16"}),
            json!({"architectures": ["LlamaForCausalLM", "LlamaForSequenceClassification"], "attn_dropout": 0.0}),
            json!({"num_experts": 0, "num_experts_per_tok": 0, "layer_types": full, "max_window_layers": 28}),
            json!({"fp16": true, "bf16": false, "resid_dropout": 0.1, "bias": false, "num_local_experts": null}),
        ] {
            assert_eq!(llama(change.clone()), llama(json!({})), "{change}");
        }
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128});
        let beside = |positions: u64| {
            ModelSpec::parse(&config(json!({"rope_scaling": llama3, "original_max_position_embeddings": positions})))
        };
        assert!(beside(128).is_ok());
        assert!(beside(64).unwrap_err().message.contains("original_max_position_embeddings = 64"));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let fault =
            ModelSpec::parse(&config(json!({"hidden_act": "relu", "sliding_window": 7, "magic": 1}))).unwrap_err();
        for said in ["hidden_act", "sliding_window", "magic"] {
            assert!(fault.message.contains(said), "{fault}");
        }
    }
}
