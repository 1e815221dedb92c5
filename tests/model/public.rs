//! The config.json of public models of the families that are supported, and of their neighbours: each is read as it is
//! meant, or refused for a reason that a person can follow.
//!
//! `public.jsonl` has a line a model: the settings that it changes of another one's (`like`, less those `without`), what
//! sentence-transformers adds of modules and pooling, and what comes of it (`want`, or `refused`: what the refusal says).

use serde_json::{Map, Value, json};
use stageline_model::families::llama::RopeScaling;
use stageline_model::{LlamaSpec, ModelSpec};
use std::collections::BTreeMap;
use std::fs;

const MODELS: &str = include_str!("public.jsonl");

/// What was read, in words.
fn facts(spec: &ModelSpec) -> String {
    let Some(spec) = spec.engine_decoder() else { return encoder(spec) };
    let LlamaSpec { hidden, layers, heads, kv_heads, head_dim, vocab, max_positions, rope_theta, eos, .. } = spec;
    let scaling = match &spec.rope_scaling {
        None => "plain".into(),
        Some(RopeScaling::Linear { factor }) => format!("linear {factor}"),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions }) => {
            format!("llama3 {factor} {low_freq_factor} {high_freq_factor} {original_max_positions}")
        }
    };
    let tied = if spec.tied { "tied" } else { "untied" };
    let window = spec.sliding.as_ref().map(|sliding| format!("window {} in {}", sliding.window, sliding.layers.len()));
    let window = window.unwrap_or("no window".into());
    format!(
        "decoder {hidden}x{layers}, heads {heads}/{kv_heads}x{head_dim}, vocab {vocab}, positions {max_positions}, \
         theta {rope_theta}, {scaling}, {tied}, {window}, ends {eos:?}"
    )
}

/// What was read of an encoder. What its family alone knows is in its own words.
fn encoder(spec: &ModelSpec) -> String {
    let (layers, vocab, positions) = (spec.layers(), spec.vocab(), spec.max_positions());
    let words = format!("{spec:?}");
    let own = |name: &str| {
        let value = words.split_once(&format!(" {name}: ")).expect("a field of it").1;
        value.split([',', ' ']).next().unwrap_or_default()
    };
    let (hidden, heads, eps) = (own("hidden"), own("heads"), own("norm_eps").parse::<f32>().expect("a number"));
    let length = if own("length_one") == "true" { "" } else { ", as it is" };
    format!("encoder {hidden}x{layers}, heads {heads}, vocab {vocab}, positions {positions}, eps {eps:e}{length}")
}

/// Reads a model's folder that holds `config` and, for an encoder, what says how it pools.
fn read(config: &Map<String, Value>, line: &Value) -> Result<ModelSpec, String> {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: Value| fs::write(dir.path().join(name), content.to_string()).unwrap();
    write("config.json", json!(config));
    if let Some(kinds) = line["modules"].as_array() {
        let path =
            |k: usize, kind: &Value| if k == 0 { String::new() } else { format!("{k}_{}", kind.as_str().unwrap()) };
        let module = |(k, kind): (usize, &Value)| {
            let name = format!("sentence_transformers.models.{}", kind.as_str().unwrap());
            json!({"idx": k, "name": k.to_string(), "path": path(k, kind), "type": name})
        };
        write("modules.json", kinds.iter().enumerate().map(module).collect());
        fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        let is = |mode: &str| line["pooling"] == mode;
        let pooling = json!({"word_embedding_dimension": config["hidden_size"], "pooling_mode_cls_token": is("cls"),
            "pooling_mode_mean_tokens": is("mean"), "pooling_mode_max_tokens": false});
        write("1_Pooling/config.json", pooling);
    }
    ModelSpec::from_dir(dir.path()).map(|(spec, _)| spec).map_err(|fault| fault.message)
}

#[test]
fn public_models_are_read_as_they_are_meant_or_refused_for_a_reason() {
    let mut configs: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let (mut wrong, mut supported) = (Vec::new(), 0);
    for line in MODELS.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let model = line["model"].as_str().unwrap();
        let mut config = line["like"].as_str().map(|like| configs[like].clone()).unwrap_or_default();
        for key in line["without"].as_array().into_iter().flatten() {
            assert!(config.remove(key.as_str().unwrap()).is_some(), "{model}: {key} is not there anyway");
        }
        config.extend(line["config"].as_object().unwrap().clone());
        match (read(&config, &line), line["want"].as_str(), line["refused"].as_str()) {
            (Ok(spec), Some(want), None) if facts(&spec) == want => supported += 1,
            (Err(fault), None, Some(said)) if fault.contains(said) => {}
            (got, want, refused) => {
                let got = got.map(|spec| facts(&spec));
                wrong.push(format!("{model}\n  got  {got:?}\n  want {:?}", want.or(refused)));
            }
        }
        configs.insert(model.into(), config);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(supported >= 60 && configs.len() > supported, "{supported} of {}", configs.len());
}
