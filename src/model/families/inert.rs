//! What a config.json may say without changing what is computed here: all the rules, in one place.
//!
//! 1. A key that is `null` asks for nothing, whether it is known or not ([`Settings::finish`]).
//! 2. A key that concerns generation, training, labels, the tokenizer, a Python library's own output, or where the file
//!    comes from ([`AT_ANY_VALUE`], [`MARKS`]) is inert, whatever its value.
//! 3. A key that asks for another model unless it is off ([`OFF`], [`AT_ONE`], quantization) is inert when it is off.
//!
//! Every other key is honoured or refused by its family's reader; one that nobody reads is refused by name.

use crate::settings::{Settings, shown};
use serde_json::{Value, json};

/// Settings that change nothing, by what they are about. Most are arguments of transformers' `PretrainedConfig` and
/// `GenerationConfig`, of any release from 4.4 to 5.0.
#[rustfmt::skip]
const AT_ANY_VALUE: [&[&str]; 8] = [
    // Where the file comes from, and with which code and kernels another program would run it.
    &[
        "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_auto_class",
        "_class_name", "_commit_hash", "_experts_implementation", "_flash_attn_2_enabled", "_from_model_config",
        "_name_or_path", "attn_implementation", "auto_map", "custom_pipelines", "dtype", "experts_implementation",
        "finetuned_from", "flash_attn", "language", "library_name", "license", "model_name", "name_or_path",
        "torch_dtype", "transformers.js_config", "transformers_version", "use_flash_attention",
        "use_flash_attention_2", "use_flash_attn", "use_memory_efficient_attention", "use_sdpa", "use_xformers",
    ],
    // What that library's functions return, and how they go about it.
    &[
        "chunk_size_feed_forward", "cross_attention_hidden_size", "keys_to_ignore_at_inference", "output_attentions",
        "output_hidden_states", "output_past", "output_router_logits", "return_dict", "tf_legacy_loss",
        "tie_encoder_decoder", "torchscript", "use_bfloat16", "use_cache", "use_return_dict", "xla_device",
    ],
    // Training.
    &[
        "bf16", "fp16", "fp32", "drop_path_rate", "gradient_checkpointing", "ignore_index", "init_std",
        "initializer_factor", "initializer_range", "label_smoothing", "layerdrop", "loss_function", "loss_type",
        "neftune_noise_alpha", "use_gradient_checkpointing",
    ],
    // Heads of other tasks.
    &[
        "_num_labels", "finetuning_task", "id2label", "label2id",
        "num_labels", "problem_type", "task_specific_params",
    ],
    // The tokenizer, whose own files say what counts here.
    &[
        "additional_special_tokens", "bos_token", "bos_token_id", "cls_token_id", "mask_token_id", "pad_token",
        "pad_token_id", "padding_side", "prefix", "sep_token_id", "tokenizer_class", "tokenizer_model_max_length",
        "tokenizer_padding_side", "truncation_side", "unk_token_id", "vocab_file",
    ],
    // Experts, of which there are none where their number is off.
    &[
        "decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob", "router_aux_loss_coef",
        "router_jitter_noise", "shared_expert_intermediate_size",
    ],
    // How long texts were in training: max_position_embeddings is what holds.
    &["max_seq_len", "max_seq_length", "max_sequence_length", "model_max_length", "seq_len", "seq_length"],
    // How that library generates: a request says that here.
    &[
        "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "bad_words_ids",
        "begin_suppress_tokens", "cache_config", "cache_implementation", "compile_config", "constraints",
        "decoder_start_token_id", "disable_compile", "diversity_penalty", "do_sample", "dola_layers",
        "early_stopping", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "epsilon_cutoff",
        "eta_cutoff", "exponential_decay_length_penalty", "force_words_ids", "forced_bos_token_id",
        "forced_decoder_ids", "forced_eos_token_id", "generation_config", "generation_kwargs", "guidance_scale",
        "is_assistant", "length_penalty", "low_memory", "max_length", "max_matching_ngram_size", "max_new_tokens",
        "max_time", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_assistant_tokens",
        "num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences", "output_logits",
        "output_scores", "penalty_alpha", "prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values",
        "renormalize_logits", "repetition_penalty", "return_dict_in_generate", "return_legacy_cache", "sequence_bias",
        "stop_strings", "suppress_tokens", "target_lookbehind", "temperature", "token_healing", "top_h", "top_k",
        "top_p", "typical_p", "watermarking_config",
    ],
];

/// What is in the names of keys that say how much is left out by chance in training.
const DROPOUT: [&str; 2] = ["dropout", "_pdrop"];

/// How keys begin with which a tool marks what it wrote.
const MARKS: [&str; 2] = ["unsloth_", "_unsloth_"];

/// Settings that ask for another model unless they are `false` (or `0`, or an empty list or object).
#[rustfmt::skip]
const OFF: [&str; 24] = [
    "add_bias", "add_cross_attention", "alibi", "bias", "first_k_dense_replace", "is_encoder_decoder", "lm_head_bias",
    "n_routed_experts", "n_shared_experts", "num_experts", "num_experts_per_tok", "num_local_experts",
    "num_shared_experts", "pruned_heads", "qk_layernorm", "rope_interleaved", "rope_traditional", "use_bias",
    "use_dual_chunk_attention", "use_dynamic_ntk", "use_logn_attn", "use_mrope", "use_parallel_residual", "use_qk_norm",
];

/// Factors, which ask for nothing where they are 1.
#[rustfmt::skip]
const AT_ONE: [&str; 8] = [
    "embedding_multiplier", "logit_scale", "logits_scaling", "partial_rotary_factor", "residual_multiplier", "rope_pct",
    "rotary_emb_fraction", "rotary_pct",
];

/// Settings that say how weights are quantized.
const QUANTIZATION: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

/// Strikes off what asks for nothing, and refuses what is not off.
pub(super) fn strike_off(settings: &mut Settings<'_>) {
    for keys in AT_ANY_VALUE {
        settings.inert(keys);
    }
    settings.inert_if(|key| MARKS.iter().any(|mark| key.starts_with(mark)));
    settings.inert_if(|key| DROPOUT.iter().any(|part| key.contains(part)));
    for key in OFF {
        if let Some(value) = settings.take(key).filter(|value| !is_off(value)) {
            settings.refuse(key, value, "only false");
        }
    }
    for key in AT_ONE {
        settings.only(key, &[json!(1)]);
    }
    for key in QUANTIZATION {
        if let Some(value) = settings.take(key).filter(|value| !is_unquantized(value)) {
            let how = value.get("quant_method").map(|method| format!(" ({})", shown(method))).unwrap_or_default();
            let hint = format!("the weights are quantized{how}: take the model's own weights, in F32, F16 or BF16");
            settings.refuse(key, value, hint);
        }
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

/// Whether a note on quantization says that there is none.
fn is_unquantized(value: &Value) -> bool {
    let none = |value: &Value| value.is_null() || value.as_str().is_some_and(|s| s.eq_ignore_ascii_case("none"));
    if none(value) || is_off(value) || value.get("quant_method").is_some_and(none) {
        return true;
    }
    // Written by whoever loaded the model with bitsandbytes and chose neither of its types.
    let off = |key: &str| value.get(key).is_none_or(|on| on == false);
    value.get("quant_method").is_some_and(|method| method == "bitsandbytes")
        && off("load_in_4bit")
        && off("load_in_8bit")
}

#[cfg(test)]
mod tests {
    use crate::ModelSpec;
    use serde_json::{Value, json};

    /// What is read, in words.
    fn parse(model_type: &str, change: Value) -> Result<String, String> {
        let mut config = json!({
            "model_type": model_type, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 100, "max_position_embeddings": 256,
        });
        if model_type == "bert" {
            config.as_object_mut().unwrap().remove("num_key_value_heads");
        }
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        ModelSpec::parse(&config).map(|spec| format!("{spec:?}")).map_err(|fault| fault.message)
    }

    #[test]
    fn inert_keys_change_nothing_in_any_family() {
        for model_type in ["llama", "mistral", "qwen2", "qwen3", "bert"] {
            let plain = parse(model_type, json!({})).unwrap();
            let keys = super::AT_ANY_VALUE.concat();
            for key in keys.iter().copied().chain(["unsloth_fixed", "unsloth_version", "some_setting_to_come"]) {
                assert_eq!(parse(model_type, json!({key: null})).unwrap(), plain, "{key}");
            }
            for key in keys.iter().copied().chain(["unsloth_fixed", "attn_dropout", "classifier_dropout", "embd_pdrop"])
            {
                for value in [json!(true), json!(7), json!("x"), json!([1.5]), json!({"a": 1})] {
                    assert_eq!(parse(model_type, json!({key: value})).unwrap(), plain, "{key}");
                }
            }
            assert!(parse(model_type, json!({"some_setting_to_come": 1})).unwrap_err().contains("is not known"));
        }
    }

    #[test]
    fn what_asks_for_another_model_must_be_off() {
        for key in super::OFF {
            for off in [json!(null), json!(false), json!(0), json!([]), json!({})] {
                assert!(parse("qwen2", json!({key: off})).is_ok(), "{key}");
            }
            for on in [json!(true), json!(2), json!(["x"]), json!({"1": [0]}), json!("false")] {
                assert!(parse("qwen2", json!({key: on})).unwrap_err().contains(key), "{key}");
            }
        }
        for key in super::AT_ONE {
            assert!(parse("llama", json!({key: 1.0})).is_ok(), "{key}");
            assert!(parse("llama", json!({key: 0.5})).unwrap_err().contains(key), "{key}");
        }
    }

    #[test]
    fn a_note_on_quantization_may_say_that_there_is_none() {
        let neither = json!({"quant_method": "bitsandbytes", "load_in_4bit": false, "load_in_8bit": false});
        for none in [json!({}), json!("none"), json!({"quant_method": "none"}), json!({"quant_method": null}), neither]
        {
            for key in super::QUANTIZATION {
                assert!(parse("llama", json!({key: none})).is_ok(), "{key} {none}");
            }
        }
        for (some, said) in [
            (json!({"quant_method": "gptq", "bits": 4}), r#"the weights are quantized ("gptq")"#),
            (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), r#"quantized ("bitsandbytes")"#),
            (json!({"group_size": 64, "bits": 4}), "the weights are quantized: take"),
        ] {
            assert!(parse("llama", json!({"quantization_config": some})).unwrap_err().contains(said), "{said}");
        }
    }
}
