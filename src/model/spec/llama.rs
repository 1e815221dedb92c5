//! The settings of a Llama-type decoder.

use super::settings::{INERT, MAX_WIDTH, Settings, shown};
use super::{LlamaSpec, RopeScaling};
use crate::base::Fault;
use crate::base::limits::MAX_STAGES;
use serde_json::{Value, json};

/// Reads a config.json whose model_type is `llama`; problems are noted in `settings`. Defaults are transformers'.
pub(super) fn read(settings: &mut Settings<'_>) -> LlamaSpec {
    settings.inert(&INERT);
    settings.only("architectures", &[json!(["LlamaForCausalLM"])]);
    settings.only("hidden_act", &[json!("silu"), json!("swish")]);
    settings.only("pretraining_tp", &[json!(1)]);
    // Settings of relatives of Llama; each is accepted where it asks for nothing.
    for key in ["sliding_window", "quantization_config", "attn_logit_softcapping", "final_logit_softcapping"] {
        settings.only(key, &[]);
    }
    for key in ["is_encoder_decoder", "is_decoder", "add_cross_attention", "rope_interleaved", "use_sliding_window"] {
        settings.only(key, &[json!(false)]);
    }
    for key in ["embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale", "partial_rotary_factor"]
    {
        settings.only(key, &[json!(1)]);
    }
    settings.only("attention_multiplier", &[]);
    settings.only("pruned_heads", &[json!({})]);
    settings.only("is_llama_config", &[json!(true)]);

    let hidden = settings.count("hidden_size", MAX_WIDTH);
    let heads = settings.count("num_attention_heads", MAX_WIDTH);
    let kv_heads = settings.count_if_set("num_key_value_heads", MAX_WIDTH).unwrap_or(heads);
    let head_dim = settings.count_if_set("head_dim", MAX_WIDTH);
    if settings.is_sound() {
        check_heads(settings, hidden, (heads, kv_heads), head_dim);
    }
    let head_dim = head_dim.unwrap_or(hidden / heads);
    let max_positions = settings.count("max_position_embeddings", MAX_WIDTH);
    let (rope_theta, rope_scaling) = rope(settings);
    LlamaSpec {
        layers: settings.count("num_hidden_layers", MAX_STAGES),
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
        attention_bias: settings.flag("attention_bias", false),
        mlp_bias: settings.flag("mlp_bias", false),
        eos: tokens(settings, "eos_token_id"),
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

/// `rope_theta` and `rope_scaling`, or `rope_parameters`, which newer configurations have in place of both.
fn rope(settings: &mut Settings<'_>) -> (f64, Option<RopeScaling>) {
    let outer = settings.take("rope_theta").is_some();
    let theta = settings.positive("rope_theta", 10_000.0);
    let scaling = settings.take("rope_scaling");
    let Some(parameters) = settings.take("rope_parameters") else {
        return (theta, scaling.and_then(|value| nested(settings, "rope_scaling", value, theta).1));
    };
    let (inner, new) = nested(settings, "rope_parameters", parameters, theta);
    if outer && inner != theta {
        settings.problem(format_args!("rope_theta = {theta} and rope_parameters.rope_theta = {inner} differ"));
    }
    if let Some(value) = scaling
        && nested(settings, "rope_scaling", value, theta).1 != new
    {
        settings.problem(format_args!("rope_scaling = {} and rope_parameters differ", shown(value)));
    }
    (inner, new)
}

/// The settings inside `rope_scaling` or `rope_parameters`.
fn nested(settings: &mut Settings<'_>, key: &str, value: &Value, theta: f64) -> (f64, Option<RopeScaling>) {
    let read = || -> Result<_, Fault> {
        let mut inner = Settings::of(key, value)?;
        let theta = inner.positive("rope_theta", theta);
        inner.only("partial_rotary_factor", &[json!(1)]);
        // `type` is the older name; where both are set they must agree.
        let (new, old) = (inner.take("rope_type"), inner.take("type"));
        if new.is_some() && old.is_some() && new != old {
            inner.problem("rope_type and type differ");
        }
        let kind = new.or(old).cloned().unwrap_or(json!("default"));
        let scaling = match kind.as_str() {
            Some("default") => None,
            Some("linear") => Some(RopeScaling::Linear { factor: factor(&mut inner) }),
            Some("llama3") => Some(llama3(&mut inner)),
            _ => {
                // What else it sets belongs to that type, and would only repeat the complaint.
                let fault = format!("{key}: rope_type = {} is not supported (default, linear or llama3)", shown(&kind));
                return Err(Fault::invalid(fault));
            }
        };
        inner.finish()?;
        Ok((theta, scaling))
    };
    read().unwrap_or_else(|fault| {
        settings.problem(fault.message);
        (theta, None)
    })
}

fn required(settings: &mut Settings<'_>, key: &str) -> f64 {
    let number = settings.positive(key, 0.0);
    if settings.take(key).is_none() {
        settings.problem(format_args!("{key} is missing"));
    }
    number
}

fn factor(settings: &mut Settings<'_>) -> f64 {
    let factor = required(settings, "factor");
    if factor > 0.0 && factor < 1.0 {
        settings.problem(format_args!("factor = {factor} is below 1"));
    }
    factor
}

fn llama3(settings: &mut Settings<'_>) -> RopeScaling {
    let factor = factor(settings);
    let (low, high) = (required(settings, "low_freq_factor"), required(settings, "high_freq_factor"));
    if low >= high {
        settings.problem(format_args!("low_freq_factor = {low} is not below high_freq_factor = {high}"));
    }
    let original_max_positions = settings.count("original_max_position_embeddings", MAX_WIDTH);
    RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_positions }
}

#[cfg(test)]
mod tests {
    use crate::model::ModelSpec;
    use crate::model::spec::RopeScaling;
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

    fn llama(change: Value) -> super::LlamaSpec {
        match ModelSpec::parse(&config(change)).unwrap() {
            ModelSpec::Llama(spec) => spec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_are_honoured() {
        let spec = llama(json!({}));
        assert_eq!((spec.head_dim, spec.norm_eps, spec.rope_theta, spec.tied), (16, 1e-6, 10_000.0, false));
        assert_eq!((spec.eos, spec.rope_scaling), (vec![], None));
        assert_eq!(llama(json!({"num_key_value_heads": null})).kv_heads, 4);
        assert_eq!(llama(json!({"head_dim": 32})).head_dim, 32);
        assert_eq!(llama(json!({"eos_token_id": 2})).eos, [2]);
        assert_eq!(llama(json!({"eos_token_id": [2, 7]})).eos, [2, 7]);
        assert_eq!(llama(json!({"eos_token_id": null})).eos, [0_u32; 0]);
        assert!(llama(json!({"attention_bias": true})).attention_bias);
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
            (json!({"sliding_window": 4096}), "sliding_window = 4096"),
            (json!({"quantization_config": {"bits": 4}}), r#"quantization_config = {"bits":4}"#),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor = 0.5"),
            (json!({"attention_multiplier": 0.1}), "attention_multiplier = 0.1"),
            (json!({"embedding_multiplier": 12.0}), "embedding_multiplier = 12.0"),
            (json!({"residual_multiplier": 0.2}), "residual_multiplier = 0.2"),
            (json!({"logits_scaling": 8}), "logits_scaling = 8"),
            (json!({"pretraining_tp": 2}), "pretraining_tp = 2"),
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
            (json!({"model_type": "mistral"}), r#"model_type = "mistral" is not supported"#),
            (json!({"model_type": null}), "model_type = null is not supported"),
        ] {
            let fault = ModelSpec::parse(&config(change)).unwrap_err();
            assert!(fault.message.contains(said), "{said}: {fault}");
            assert!(!fault.message.contains('\n'), "{fault}");
        }
        assert!(ModelSpec::parse(&json!([1])).is_err());
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
