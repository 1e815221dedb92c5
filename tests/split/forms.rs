//! Names and forms that one and the same checkpoint may have: what is written is the same.

use crate::reference;
use crate::tiny::{self, Tensors};
use serde_json::{Value, json};
use stageline_model::Checkpoint;
use stageline_server::Blueprint;
use stageline_shard::PipelineFolder;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder of `tensors`, cut in two; what the split reports.
fn cut(root: &Path, name: &str, config: &Value, tensors: &Tensors) -> Value {
    let model = root.join(name);
    tiny::write(&model, config, &tiny::file(tensors));
    tiny::run(&tiny::order(&model, &root.join(format!("{name}-cut")), 2)).unwrap()
}

/// What opening a folder of `tensors` says.
fn refusal(root: &Path, config: &Value, tensors: &Tensors) -> String {
    let model = root.join("refused");
    tiny::write(&model, config, &tiny::file(tensors));
    Checkpoint::open(&model).unwrap_err().message
}

fn renamed(tensors: Tensors, rename: impl Fn(&str) -> String) -> Tensors {
    tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect()
}

#[test]
fn norms_of_encoders_have_two_names() {
    let root = tempfile::tempdir().unwrap();
    let config = tiny::bert_config();
    let old =
        |name: &str| name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    let want = cut(root.path(), "plain", &config, &tiny::bert(""))["digest"].clone();
    for (number, prefix) in ["", "bert.", "model.bert.", "encoder_q."].into_iter().enumerate() {
        // The bytes of a tensor hang on the name that it was made with.
        let named = |name: &str| format!("{prefix}{}", old(name));
        let report = cut(root.path(), &number.to_string(), &config, &renamed(tiny::bert(""), named));
        assert_eq!((&report["digest"], &report["left_out"]), (&want, &json!([])), "{prefix}");
    }
    // Both names, one value: the second is left out. Two values: nobody knows which is meant.
    let mut both = tiny::bert("");
    let norm = both["embeddings.LayerNorm.weight"].clone();
    both.insert("embeddings.LayerNorm.gamma".into(), norm);
    let report = cut(root.path(), "both", &config, &both);
    assert_eq!((&report["digest"], &report["left_out"]), (&want, &json!(["embeddings.LayerNorm.gamma"])));
    tiny::add(&mut both, "embeddings.LayerNorm.gamma", &[8]);
    let said = refusal(root.path(), &config, &both);
    assert!(
        said.contains("embeddings.LayerNorm.gamma is there and differs from embeddings.LayerNorm.weight"),
        "{said}"
    );
    let mut two = tiny::bert("a.");
    two.extend(tiny::bert("b."));
    let said = refusal(root.path(), &config, &two);
    assert!(said.contains(r#"two models: tensors begin with "a." and with "b.""#), "{said}");
}

#[test]
fn decoders_may_lack_what_stands_in_front_of_names_or_have_more() {
    let root = tempfile::tempdir().unwrap();
    let config = tiny::llama_config();
    let want = cut(root.path(), "plain", &config, &tiny::llama())["digest"].clone();
    let bare = renamed(tiny::llama(), |name| name.strip_prefix("model.").unwrap_or(name).into());
    assert_eq!(cut(root.path(), "bare", &config, &bare)["digest"], want);
    let wrapped = renamed(tiny::llama(), |name| format!("_orig_mod.{name}"));
    assert_eq!(cut(root.path(), "wrapped", &config, &wrapped)["digest"], want);
    // The body wrapped alone, its head not.
    let mut untied = config;
    untied["tie_word_embeddings"] = json!(false);
    let mut own = tiny::llama();
    tiny::add(&mut own, "lm_head.weight", &[40, 8]);
    let want = cut(root.path(), "untied", &untied, &own)["digest"].clone();
    for (number, body) in ["model._orig_mod.", "module.model."].into_iter().enumerate() {
        let named = |name: &str| name.strip_prefix("model.").map_or(name.into(), |rest| format!("{body}{rest}"));
        let report = cut(root.path(), &format!("body-{number}"), &untied, &renamed(own.clone(), named));
        assert_eq!(report["digest"], want, "{body}");
    }
}

#[test]
fn a_tied_matrix_goes_by_the_name_of_either_end() {
    let root = tempfile::tempdir().unwrap();
    let config = tiny::llama_config();
    let want = cut(root.path(), "plain", &config, &tiny::llama());
    let by_head =
        |name: &str| if name == "model.embed_tokens.weight" { "lm_head.weight".into() } else { name.to_owned() };
    let report = cut(root.path(), "head", &config, &renamed(tiny::llama(), by_head));
    assert_eq!((&report["digest"], &report["tied"]), (&want["digest"], &want["tied"]));
    // As a model of its own, nothing written, it loads as well.
    assert!(Blueprint::open(&root.path().join("head"), Some(3), Default::default()).is_ok());
    let mut untied = config.clone();
    untied["tie_word_embeddings"] = json!(false);
    let said = refusal(root.path(), &untied, &tiny::llama());
    assert!(said.contains("lm_head.weight is missing (if the model ties it"), "{said}");
}

#[test]
fn each_tensor_keeps_its_type() {
    let root = tempfile::tempdir().unwrap();
    let mut tensors = tiny::llama();
    for (name, (dtype, _, bytes)) in &mut tensors {
        let (kind, width) = match name.as_str() {
            name if name.ends_with("norm.weight") => continue,
            name if name.contains("k_proj") => ("F16", 2),
            name if name.contains("layers.2.mlp.down_proj") => ("F64", 8),
            _ => ("BF16", 2),
        };
        let elements = bytes.len() / 4;
        *dtype = kind.into();
        *bytes = bytes.iter().copied().cycle().take(elements * width).collect();
    }
    let report = cut(root.path(), "mixed", &tiny::llama_config(), &tensors);
    assert_eq!(report["dtype"], "bf16", "the type of most numbers");
    let out = root.path().join("mixed-cut");
    let shards: Vec<String> = serde_json::from_value(report["shards"].clone()).unwrap();
    let whole = reference::read(&root.path().join("mixed/model.safetensors"));
    assert!(reference::union(&out, &shards, &["model.embed_tokens.weight".into()]) == whole);
    let mut said = Vec::new();
    stageline::cli::inspect::inspect(&out, false, &mut said).unwrap();
    stageline::cli::inspect::verify(&out, &mut Vec::new()).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("weights in bf16") && said.contains("F64 [8, 12]") && said.contains("F32 [8] × "), "{said}");
    assert!(PipelineFolder::open(&out).is_ok());
}

#[test]
fn what_plays_no_part_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    let mut tensors = tiny::llama();
    let names = [
        "global_step",
        "lr_scheduler.step",
        "model.layers.0.mlp.up_proj.weight.exp_avg",
        "model.layers.1.self_attn.masked_bias",
        "model.layers.1.self_attn.rotary_emb.inv_freq",
        "model.position_ids",
        "model.rotary_emb.cos_cached",
        "optimizer.state.0",
        "score.weight",
        "v_head.summary.weight",
    ];
    for name in names {
        tiny::add(&mut tensors, name, &[2]);
    }
    assert_eq!(cut(root.path(), "decoder", &tiny::llama_config(), &tensors)["left_out"], json!(names));
    let mut tensors = tiny::bert("bert.");
    let names = [
        "bert.embeddings.LayerNorm.weight/adam_m",
        "bert.embeddings.position_ids",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "cls.seq_relationship.bias",
        "qa_outputs.weight",
    ];
    for name in names {
        tiny::add(&mut tensors, name, &[2]);
    }
    assert_eq!(cut(root.path(), "encoder", &tiny::bert_config(), &tensors)["left_out"], json!(names));
    for (name, said) in [
        ("model.layers.0.self_attn.q_proj.qweight", "its weights are quantized"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "its weights are quantized"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "it holds an adapter"),
        ("model.layers.0.self_attn.bias", "is not known, and so not ignored"),
    ] {
        let mut tensors = tiny::llama();
        tiny::add(&mut tensors, name, &[2]);
        let fault = refusal(root.path(), &tiny::llama_config(), &tensors);
        assert!(fault.contains(said), "{name}: {fault}");
    }
}

/// A folder whose tensors are in two files, and its index.
fn in_two(root: &Path) -> (PathBuf, Value) {
    let model = root.join("model");
    tiny::write(&model, &tiny::llama_config(), &[]);
    fs::remove_file(model.join("model.safetensors")).unwrap();
    let mut map = json!({});
    for (file, tensors) in [("a.safetensors", half(true)), ("b.safetensors", half(false))] {
        fs::write(model.join(file), tiny::file(&tensors)).unwrap();
        for name in tensors.keys() {
            map[name] = json!(file);
        }
    }
    (model, map)
}

fn half(first: bool) -> Tensors {
    tiny::llama().into_iter().filter(|(name, _)| name.contains("self_attn") == first).collect()
}

#[test]
fn an_index_and_its_files_may_disagree() {
    let root = tempfile::tempdir().unwrap();
    let want = cut(root.path(), "plain", &tiny::llama_config(), &tiny::llama())["digest"].clone();
    let (model, map) = in_two(root.path());
    let write = |map: &Value| {
        let index = json!({"metadata": {"total_size": 12}, "weight_map": map}).to_string();
        fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    };
    let cut = || tiny::run(&tiny::order(&model, &root.path().join("out"), 2));
    let mut elsewhere = map.clone();
    elsewhere["model.norm.weight"] = json!("a.safetensors");
    let mut stale = map.clone();
    stale["model.layers.0.self_attn.rotary_emb.inv_freq"] = json!("b.safetensors");
    let mut silent = map.clone();
    silent.as_object_mut().unwrap().remove("model.norm.weight");
    let mut here = map.clone();
    here["model.norm.weight"] = json!("./b.safetensors");
    for map in [&map, &elsewhere, &stale, &silent, &here] {
        write(map);
        assert_eq!(cut().unwrap()["digest"], want);
        fs::remove_dir_all(root.path().join("out")).unwrap();
    }
    // A file that the index does not name is none of the model's.
    write(&map);
    fs::write(model.join("c.safetensors"), tiny::file(&tiny::bert(""))).unwrap();
    assert_eq!(cut().unwrap()["digest"], want);
    fs::remove_dir_all(root.path().join("out")).unwrap();

    // A tensor in both files: the same is one, another is neither.
    let mut second = half(false);
    let name = "model.layers.0.self_attn.q_proj.weight";
    second.insert(name.into(), half(true)[name].clone());
    fs::write(model.join("b.safetensors"), tiny::file(&second)).unwrap();
    assert_eq!(cut().unwrap()["digest"], want);
    fs::remove_dir_all(root.path().join("out")).unwrap();
    *second.get_mut(name).unwrap().2.last_mut().unwrap() ^= 1;
    fs::write(model.join("b.safetensors"), tiny::file(&second)).unwrap();
    let said = cut().unwrap_err();
    assert!(said.contains(name) && said.contains("and differs: fetch both files again"), "{said}");

    let mut second = half(false);
    second.remove("model.norm.weight").unwrap();
    fs::write(model.join("b.safetensors"), tiny::file(&second)).unwrap();
    let said = cut().unwrap_err();
    assert!(said.contains("tensor model.norm.weight is missing: the index names it in b.safetensors"), "{said}");
}

/// What sentence-transformers says of an encoder, in `dir`.
fn pools(dir: &Path, kinds: &[&str], transformer: &str) {
    let module = |(k, kind): (usize, &&str)| {
        let path = if k == 0 { transformer.to_string() } else { format!("{k}_{kind}") };
        json!({"idx": k, "name": k.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
    };
    let modules: Value = kinds.iter().enumerate().map(module).collect();
    fs::write(dir.join("modules.json"), modules.to_string()).unwrap();
    fs::create_dir(dir.join("1_Pooling")).unwrap();
    let pooling = json!({"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": true});
    fs::write(dir.join("1_Pooling/config.json"), pooling.to_string()).unwrap();
}

#[test]
fn an_encoder_says_elsewhere_how_long_its_vectors_are_and_where_it_lies() {
    let root = tempfile::tempdir().unwrap();
    let weights = tiny::file(&tiny::bert(""));
    let spec = |dir: &Path| format!("{:?}", Blueprint::open(dir, None, Default::default()).unwrap().spec);
    for (kinds, transformer, length_one) in [
        (&["Transformer", "Pooling", "Normalize"][..], "", true),
        (&["Transformer", "Pooling"], "", false),
        (&["Transformer", "Pooling"], "0_Transformer", false),
    ] {
        let model = root.path().join(format!("model-{}{transformer}", kinds.len()));
        fs::create_dir(&model).unwrap();
        tiny::write(&model.join(transformer), &tiny::bert_config(), &weights);
        pools(&model, kinds, transformer);
        let out = model.with_extension("cut");
        tiny::run(&tiny::order(&model, &out, 2)).unwrap();
        // A pipeline's folder has no modules.json: its manifest says it.
        assert!(spec(&out).contains(&format!("length_one: {length_one}")), "{kinds:?} {transformer}: {}", spec(&out));
        assert_eq!(spec(&model), spec(&out), "{kinds:?} {transformer}");
        assert!(!out.join("modules.json").exists());
    }
}

#[test]
fn what_a_manifest_says_in_its_own_words_no_model_says() {
    for (mut config, tensors) in [(tiny::bert_config(), tiny::bert("")), (tiny::llama_config(), tiny::llama())] {
        config["stageline_vectors_as_they_are"] = json!(true);
        let said = refusal(tempfile::tempdir().unwrap().path(), &config, &tensors);
        let want = "config.json: stageline_vectors_as_they_are is a word of pipelines: fetch the model's own folder";
        assert!(said.contains(want), "{said}");
    }
}
