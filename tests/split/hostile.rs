//! Model folders that are broken or lie, and places to write that are taken: one clear line, and nothing left behind.

use crate::reference;
use crate::tiny::{self, LAYERS};
use serde_json::{Value, json};
use stageline_model::Checkpoint;
use stageline_model::split::{PlanOrder, plan_only, write_pipeline};
use stageline_plan::Manifest;
use stageline_server::Blueprint;
use stageline_shard::{ModelFolder, PipelineFolder};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder with a tiny decoder in `model`, and nothing else.
fn root() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let (model, out) = (root.path().join("model"), root.path().join("out"));
    tiny::write(&model, &tiny::llama_config(), &tiny::file(&tiny::llama()));
    (root, model, out)
}

/// Splits into two stages; it must fail, say `said`, and leave only the model.
fn fails(root: &Path, said: &str) {
    let error = tiny::run(&tiny::order(&root.join("model"), &root.join("out"), 2)).unwrap_err();
    assert!(error.contains(said), "expected {said:?}: {error}");
    assert_eq!(tiny::names(root), ["model"], "{said}");
}

#[test]
fn weights_that_do_not_fit_the_configuration() {
    type Break = fn(&mut tiny::Tensors);
    let breaks: [(Break, &str); 7] = [
        (
            |t| drop(t.remove("model.layers.2.mlp.up_proj.weight")),
            "tensor model.layers.2.mlp.up_proj.weight is missing",
        ),
        (|t| tiny::add(t, "model.norm.weight", &[9]), "tensor model.norm.weight is F32 [9], config.json asks for [8]"),
        (
            |t| tiny::add(t, "model.layers.0.self_attn.k_proj.weight", &[8, 4]),
            "is F32 [8, 4], config.json asks for [4, 8]",
        ),
        (|t| tiny::add(t, "model.layers.0.self_attn.q_norm.weight", &[4]), "q_norm.weight is not known"),
        (
            |t| tiny::add(t, "model.layers.4.input_layernorm.weight", &[8]),
            "model.layers.4.input_layernorm.weight is not known",
        ),
        (|t| tiny::add(t, "lm_head.weight", &[40, 8]), "lm_head.weight is there and differs"),
        (|t| t.values_mut().for_each(|tensor| tensor.0 = "I32".into()), "weights can be F32, F16 or BF16"),
    ];
    for (wrong, said) in breaks {
        let (root, model, _) = root();
        let mut tensors = tiny::llama();
        wrong(&mut tensors);
        fs::write(model.join("model.safetensors"), tiny::file(&tensors)).unwrap();
        fails(root.path(), said);
    }
}

#[test]
fn folders_that_lack_something_or_lie() {
    type Break = fn(&Path);
    let breaks: [(Break, &str); 11] = [
        (|m| fs::create_dir(m.join("chat_template.jinja")).unwrap(), "is not a file, but a folder"),
        (|m| fs::write(m.join("generation_config.json"), "{").unwrap(), "generation_config.json is not JSON"),
        (|m| fs::remove_file(m.join("config.json")).unwrap(), "config.json is not there"),
        (|m| fs::write(m.join("config.json"), "{").unwrap(), "config.json is not JSON"),
        (|m| fs::remove_file(m.join("tokenizer.json")).unwrap(), "tokenizer.json is not there: fetch the model again"),
        (
            |m| fs::rename(m.join("tokenizer.json"), m.join("tokenizer.model")).unwrap(),
            "tokenizer.model is, but stageline reads tokenizer.json: load the tokenizer with",
        ),
        (|m| fs::remove_file(m.join("model.safetensors")).unwrap(), "holds neither model.safetensors nor"),
        (|m| fs::write(m.join("model.safetensors"), "short").unwrap(), "too few for a safetensors file"),
        (
            |m| {
                let weights = fs::read(m.join("model.safetensors")).unwrap();
                fs::write(m.join("model.safetensors"), &weights[..weights.len() - 1]).unwrap();
            },
            "it is truncated or lies",
        ),
        (
            |m| {
                fs::remove_file(m.join("tokenizer.json")).unwrap();
                std::os::unix::fs::symlink("../blobs/gone", m.join("tokenizer.json")).unwrap();
            },
            "is a link to ../blobs/gone, and nothing is there",
        ),
        (
            |m| {
                fs::remove_file(m.join("config.json")).unwrap();
                fs::create_dir(m.join("config.json")).unwrap();
            },
            "is not a file",
        ),
    ];
    for (wrong, said) in breaks {
        let (root, model, _) = root();
        wrong(&model);
        fails(root.path(), said);
    }
}

/// Puts the tensors of the tiny decoder in two files with an index.
fn in_two_files(model: &Path) -> Value {
    let (first, second): (tiny::Tensors, tiny::Tensors) =
        tiny::llama().into_iter().partition(|(name, _)| name.contains("layers.0") || name.contains("layers.1"));
    fs::remove_file(model.join("model.safetensors")).unwrap();
    let mut map = json!({});
    for (file, tensors) in [("model-1.safetensors", first), ("model-2.safetensors", second)] {
        fs::write(model.join(file), tiny::file(&tensors)).unwrap();
        for name in tensors.keys() {
            map[name] = json!(file);
        }
    }
    map
}

fn write_index(model: &Path, map: &Value) {
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn an_index_is_followed_inside_its_folder_only() {
    let (root, model, out) = root();
    let whole = reference::read(&model.join("model.safetensors"));
    let map = in_two_files(&model);
    write_index(&model, &map);
    let report = tiny::run(&tiny::order(&model, &out, 3)).unwrap();
    let shards: Vec<String> = serde_json::from_value(report["shards"].clone()).unwrap();
    assert!(reference::union(&out, &shards, &["model.embed_tokens.weight".into()]) == whole);
    fs::remove_dir_all(&out).unwrap();

    fs::copy(model.join("model-1.safetensors"), root.path().join("outside.safetensors")).unwrap();
    let outside = root.path().join("outside.safetensors");
    std::os::unix::fs::symlink(&outside, model.join("link.safetensors")).unwrap();
    fs::create_dir(model.join("deeper")).unwrap();
    fs::copy(&outside, model.join("deeper/model-1.safetensors")).unwrap();
    let pointed_at = |place: &str| {
        let mut map = map.clone();
        for (_, file) in map.as_object_mut().unwrap().iter_mut().filter(|(_, file)| **file == "model-1.safetensors") {
            *file = json!(place);
        }
        write_index(&model, &map);
    };
    // A link of that folder may lead anywhere, as a download cache's do.
    pointed_at("link.safetensors");
    tiny::run(&tiny::order(&model, &out, 2)).unwrap();
    fs::remove_dir_all(&out).unwrap();
    for (place, said) in [
        ("../outside.safetensors", "is not the name of a file in this folder"),
        (outside.to_str().unwrap(), "is not the name of a file in this folder"),
        ("deeper/model-1.safetensors", "is not the name of a file in this folder"),
        ("deeper", "is not a file"),
        ("absent.safetensors", "is not there"),
        ("", "is not the name of a file in this folder"),
        ("model-2.safetensors", "is missing: the index names it in model-2.safetensors"),
    ] {
        pointed_at(place);
        let fault = Checkpoint::open(&model).unwrap_err();
        assert!(fault.message.contains(said), "{place}: {fault}");
        tiny::run(&tiny::order(&model, &out, 2)).unwrap_err();
        assert_eq!(tiny::names(root.path()), ["model", "outside.safetensors"]);
    }
    let mut less = map.clone();
    less.as_object_mut().unwrap().remove("model.norm.weight");
    write_index(&model, &less);
    assert!(Checkpoint::open(&model).is_ok(), "an index may be older than its files");
    fs::write(model.join("model.safetensors.index.json"), "[]").unwrap();
    assert!(ModelFolder::open(&model).is_err());
}

#[test]
fn orders_that_cannot_be_met() {
    let (root, model, out) = root();
    let order = tiny::order(&model, &out, 2);
    let with = |change: &dyn Fn(&mut stageline::cli::split::SplitOrder)| {
        let mut order = order.clone();
        change(&mut order);
        order
    };
    for (order, said) in [
        (
            with(&|o| o.stages = LAYERS + 1),
            "cannot cut a model of 4 units (embedding + layer 0 to layer 3 + head) into 5 stages",
        ),
        (with(&|o| o.stages = 0), "into 0 stages"),
        (with(&|o| o.stages = usize::MAX), "stages"),
        (with(&|o| o.max_model_len = Some(65)), "max_model_len is 65"),
        (with(&|o| o.max_num_seqs = 0), "max_num_seqs 0"),
        (with(&|o| o.stage_memory = vec![1000]), "no cut into 2 stages fits the stage memory"),
        (with(&|o| o.stage_memory = vec![1, 2, 3]), "is given for 3 stages of 2"),
        (with(&|o| o.name = Some("No Name".into())), "cannot name a pipeline"),
        (with(&|o| o.model_dir = root.path().join("absent")), "absent: No such file"),
        (with(&|o| o.out = PathBuf::from("/")), "does not name a folder"),
        (with(&|o| o.out = model.clone()), "is not empty and holds no pipeline"),
        (with(&|o| o.out = model.join("config.json")), "Not a directory"),
    ] {
        let error = tiny::run(&order).unwrap_err();
        assert!(error.contains(said), "expected {said:?}: {error}");
        assert_eq!(tiny::names(root.path()), ["model"]);
        assert_eq!(tiny::names(&model), ["config.json", "model.safetensors", "tokenizer.json"]);
    }
    // A byte less than the free cut's first stage needs leaves it one layer.
    let free = tiny::run(&order).unwrap();
    assert_eq!(free["stages"][0]["units"], json!([0, 2]));
    let need = |stage: &Value| stage["weight_bytes"].as_u64().unwrap() + stage["kv_bytes"].as_u64().unwrap();
    let capped = with(&|o| o.stage_memory = vec![need(&free["stages"][0]) - 1, 1 << 30]);
    assert_eq!(tiny::run(&capped).unwrap()["stages"][0]["units"], json!([0, 1]));
}

#[test]
fn what_is_in_the_place_is_kept_unless_it_is_a_pipeline() {
    let (_root, model, out) = root();
    tiny::run(&tiny::order(&model, &out, 4)).unwrap();
    assert_eq!(tiny::names(&out).len(), 4 + 2);
    tiny::run(&tiny::order(&model, &out, 2)).unwrap();
    assert_eq!(tiny::names(&out), ["pipeline.json", "stage-0.safetensors", "stage-1.safetensors", "tokenizer.json"]);
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let before = fs::read(out.join(Manifest::FILE)).unwrap();
    let error = tiny::run(&tiny::order(&model, &out, 3)).unwrap_err();
    assert!(error.contains(r#"holds "notes.txt", which is not the pipeline's"#), "{error}");
    assert_eq!(fs::read(out.join(Manifest::FILE)).unwrap(), before);
}

#[test]
fn the_same_model_makes_the_same_pipeline() {
    let (root, model, out) = root();
    let again = root.path().join("again");
    let digest = tiny::run(&tiny::order(&model, &out, 3)).unwrap()["digest"].clone();
    assert_eq!(tiny::run(&tiny::order(&model, &again, 3)).unwrap()["digest"], digest);
    for name in tiny::names(&out) {
        assert!(fs::read(out.join(&name)).unwrap() == fs::read(again.join(&name)).unwrap(), "{name}");
    }
    assert_ne!(tiny::run(&tiny::order(&model, &again, 2)).unwrap()["digest"], digest);
}

#[test]
fn progress_ends_at_its_total() {
    let (_root, model, out) = root();
    let checkpoint = Checkpoint::open(&model).unwrap();
    for stages in [1, 3] {
        let order = PlanOrder { stages, max_num_seqs: 1, ..PlanOrder::default() };
        let plan = plan_only(&checkpoint, &order).unwrap();
        let mut told = Vec::new();
        write_pipeline(&checkpoint, &plan, "tiny", &out, &mut |done, total| told.push((done, total))).unwrap();
        let (done, total) = told[told.len() - 1];
        assert!(told.is_sorted() && done == total && total > 0, "{told:?}");
    }
}

#[test]
fn tensors_of_a_shard_are_aligned_as_far_as_their_lengths_allow() {
    let (_root, model, out) = root();
    tiny::write(&model, &tiny::bert_config(), &tiny::file(&tiny::bert("")));
    tiny::run(&tiny::order(&model, &out, 2)).unwrap();
    let folder = PipelineFolder::open(&out).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for stage in 0..2 {
        let shard = folder.load_stage(stage, |_| ()).unwrap();
        for name in shard.header().tensors.keys() {
            let bytes = shard.tensor(name).unwrap().bytes;
            let align = 1_usize << bytes.len().trailing_zeros().min(6);
            assert_eq!(bytes.as_ptr() as usize % align, 0, "{name} is not aligned to {align}");
            seen.insert(align);
        }
    }
    assert_eq!(Vec::from_iter(seen), [16, 32, 64]);
}

#[test]
fn names_of_an_encoder_come_with_and_without_their_prefix() {
    let root = tempfile::tempdir().unwrap();
    let mut digests = Vec::new();
    for prefix in ["", "bert."] {
        let mut tensors = tiny::bert(prefix);
        let mut left_out = vec![format!("{prefix}embeddings.position_ids"), format!("{prefix}pooler.dense.weight")];
        tiny::add(&mut tensors, &left_out[1], &[8, 8]);
        tensors.insert(left_out[0].clone(), ("I64".into(), vec![1, 2], vec![0; 16]));
        if !prefix.is_empty() {
            left_out.push("cls.predictions.bias".into());
            tiny::add(&mut tensors, &left_out[2], &[30]);
        }
        let (model, out) = (root.path().join(format!("m{prefix}")), root.path().join(format!("o{prefix}")));
        tiny::write(&model, &tiny::bert_config(), &tiny::file(&tensors));
        let report = tiny::run(&tiny::order(&model, &out, 2)).unwrap();
        left_out.sort();
        assert_eq!(report["left_out"], json!(left_out));
        digests.push(report["digest"].clone());
    }
    assert_eq!(digests[0], digests[1], "the prefix is not part of the shards");
}

#[test]
fn a_tied_head_that_is_there_anyway_is_left_out_if_it_is_the_embedding() {
    let (_root, model, out) = root();
    let mut tensors = tiny::llama();
    tensors.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    fs::write(model.join("model.safetensors"), tiny::file(&tensors)).unwrap();
    assert_eq!(tiny::run(&tiny::order(&model, &out, 2)).unwrap()["left_out"], json!(["lm_head.weight"]));
    let mut config = tiny::llama_config();
    config["tie_word_embeddings"] = json!(false);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let report = tiny::run(&tiny::order(&model, &out, 2)).unwrap();
    assert_eq!((&report["left_out"], &report["tied"]), (&json!([]), &json!([])));
    assert!(reference::read(&out.join("stage-1.safetensors")).contains_key("lm_head.weight"));
}

#[test]
fn whoever_serves_a_stage_needs_no_other_stages_files() {
    let (root, model, out) = root();
    tiny::run(&tiny::order(&model, &out, 2)).unwrap();
    fs::remove_file(out.join("stage-0.safetensors")).unwrap();
    let blueprint = Blueprint::open_stage(&out, 1).unwrap();
    assert_eq!(blueprint.stages.len(), 2);
    PipelineFolder::open_for(&out, 1).unwrap().load_stage(1, |_| ()).unwrap();
    for fault in [Blueprint::open_stage(&out, 0).unwrap_err(), PipelineFolder::open(&out).unwrap_err()] {
        assert!(fault.message.contains("stage-0.safetensors is not there"), "{fault}");
    }
    // Nor the tokenizer, which only stage 0 reads.
    fs::remove_file(out.join("tokenizer.json")).unwrap();
    assert_eq!(tiny::names(&out), ["pipeline.json", "stage-1.safetensors"]);
    Blueprint::open_stage(&out, 1).unwrap();
    tiny::run(&tiny::order(&model, &root.path().join("again"), 2)).unwrap();
    fs::remove_file(root.path().join("again/tokenizer.json")).unwrap();
    assert!(Blueprint::open_stage(&root.path().join("again"), 0).unwrap_err().message.contains("tokenizer.json"));
}

#[test]
fn a_damaged_pipeline_is_refused() {
    let (_root, model, out) = root();
    let intact = |out: &Path| {
        let folder = PipelineFolder::open(out).map_err(|fault| fault.message)?;
        folder.load_stage(1, |_| ()).map_err(|fault| fault.message).map(drop)
    };
    type Break = fn(&Path);
    let breaks: [(Break, &str); 7] = [
        (|o| flip(&o.join("stage-1.safetensors"), -1), "it is damaged"),
        (|o| flip(&o.join("stage-1.safetensors"), 20), "stage-1.safetensors"),
        (|o| fs::write(o.join("stage-1.safetensors"), "x").unwrap(), "has 1 bytes, the manifest says"),
        (|o| fs::remove_file(o.join("stage-0.safetensors")).unwrap(), "stage-0.safetensors is not there"),
        (|o| fs::remove_file(o.join("pipeline.json")).unwrap(), "is not a pipeline folder"),
        (|o| fs::write(o.join("pipeline.json"), "{}").unwrap(), "is not a manifest"),
        (
            |o| {
                let manifest = fs::read_to_string(o.join("pipeline.json")).unwrap();
                fs::write(o.join("pipeline.json"), manifest.replace("\"stage-1.s", "\"../stage-1.s")).unwrap();
            },
            "file name \"../stage-1.safetensors\"",
        ),
    ];
    for (wrong, said) in breaks {
        tiny::run(&tiny::order(&model, &out, 2)).unwrap();
        intact(&out).unwrap();
        stageline::cli::inspect::verify(&out, &mut Vec::new()).unwrap();
        wrong(&out);
        let error = intact(&out).unwrap_err();
        assert!(error.contains(said), "expected {said:?}: {error}");
        stageline::cli::inspect::verify(&out, &mut Vec::new()).unwrap_err();
        fs::remove_dir_all(&out).unwrap();
    }
}

/// Flips a bit of a file, `at` bytes from its start, or from its end where negative.
fn flip(path: &Path, at: isize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at.rem_euclid(bytes.len() as isize) as usize;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}
