//! Real weights: the shards together are the model, bit for bit.

use crate::real_models::{MINILM, SMOLLM2, model_dir};
use crate::{reference, tiny};
use serde_json::Value;
use stageline_model::Checkpoint;
use stageline_plan::{Balance, Manifest, weights};
use stageline_shard::PipelineFolder;
use std::path::Path;

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Splits a real model; checks that its shards are its tensors but for those named as left out, and returns the report.
fn split_is_the_model(name: &str, stages: usize, out: &Path) -> Value {
    let dir = model_dir(name);
    let report = tiny::run(&tiny::order(&dir, out, stages)).unwrap();
    let mut source = reference::read(&dir.join("model.safetensors"));
    for name in texts(&report["left_out"]) {
        assert!(source.remove(&name).is_some(), "{name} is left out and was not there");
    }
    let union = reference::union(out, &texts(&report["shards"]), &texts(&report["tied"]));
    let missing: Vec<&String> = source.keys().filter(|name| !union.contains_key(*name)).collect();
    let extra: Vec<&String> = union.keys().filter(|name| !source.contains_key(*name)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:?}, extra {extra:?}");
    for (name, tensor) in &source {
        assert!(union[name] == *tensor, "{name} is not the model's, at {stages} stages");
    }
    report
}

#[test]
fn shards_of_a_decoder_are_the_decoder() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    for (stages, layers) in [(1, vec![30]), (2, vec![16, 14]), (3, vec![11, 10, 9]), (30, vec![1; 30])] {
        // Each time over the one before it.
        let report = split_is_the_model(SMOLLM2, stages, &out);
        let ranges = report["stages"].as_array().unwrap().iter().map(|stage| {
            let at = |k: usize| stage["units"][k].as_u64().unwrap() as usize;
            at(1) - at(0)
        });
        assert_eq!(ranges.collect::<Vec<_>>(), layers, "{stages} stages");
        assert_eq!(tiny::names(&out).len(), stages + 4, "{:?}", tiny::names(&out));
        let tied: &[&str] = if stages > 1 { &["model.embed_tokens.weight"] } else { &[] };
        assert_eq!(texts(&report["tied"]), tied);
        assert!(texts(&report["left_out"]).is_empty());
        let advised = report["advice"].to_string().contains("16 stages would be as fast as 30");
        assert_eq!(advised, stages == 30, "{}", report["advice"]);
    }
}

#[test]
fn shards_of_an_encoder_are_the_encoder() {
    let root = tempfile::tempdir().unwrap();
    for stages in [1, 2, 6] {
        let report = split_is_the_model(MINILM, stages, &root.path().join(stages.to_string()));
        let left_out = ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"];
        assert_eq!(texts(&report["left_out"]), left_out);
        assert!(texts(&report["tied"]).is_empty());
    }
}

#[test]
fn both_readers_give_the_models_tensors() {
    let root = tempfile::tempdir().unwrap();
    let dir = model_dir(MINILM);
    let mut order = tiny::order(&dir, root.path(), 2);
    order.goal.balance = Balance::Params;
    tiny::run(&order).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let pipeline = PipelineFolder::open(root.path()).unwrap();
    let source = reference::read(&dir.join("model.safetensors"));
    for (k, stage) in pipeline.manifest().stages.iter().enumerate() {
        let mut read = Vec::new();
        let shard = pipeline.load_stage(k, |bytes| read.push(bytes)).unwrap();
        assert!(read.is_sorted() && *read.last().unwrap() == stage.shard.bytes);
        let needs = checkpoint.spec.stage_tensors(&(stage.units[0]..stage.units[1]));
        assert_eq!(needs.len(), shard.header().tensors.len());
        assert_eq!(needs.iter().map(|need| need.shape.iter().product::<usize>() as u64).sum::<u64>(), stage.parameters);
        for need in needs {
            let (dtype, shape, bytes) = &source[&need.name];
            for tensor in [shard.tensor(&need.name).unwrap(), checkpoint.tensor(&need.name).unwrap()] {
                assert_eq!((tensor.dtype, &tensor.shape), (*dtype, shape));
                assert!(tensor.bytes == bytes, "{}", need.name);
                let align = 1_usize << bytes.len().trailing_zeros().min(6);
                assert_eq!(tensor.bytes.as_ptr() as usize % align, 0, "{} is not aligned to {align}", need.name);
            }
        }
        assert!(shard.tensor("pooler.dense.weight").is_err());
    }
    assert!(pipeline.load_stage(2, |_| ()).is_err());
    assert_eq!(
        pipeline.files().bytes("tokenizer.json", u64::MAX - 1).unwrap().unwrap(),
        std::fs::read(dir.join("tokenizer.json")).unwrap()
    );
    assert_eq!(pipeline.files().text("absent.json").unwrap(), None);
}

#[test]
fn real_configurations_are_read() {
    let smollm2 = Checkpoint::open(&model_dir(SMOLLM2)).unwrap();
    // The whole model, as its makers count it.
    assert_eq!(weights(&smollm2.units()).parameters, 134_515_008);
    assert_eq!(smollm2.dtype_name(), "bf16");
    let spec = smollm2.spec.engine_decoder().unwrap();
    assert_eq!((spec.heads, spec.kv_heads, spec.head_dim, spec.tied), (9, 3, 64, true));
    assert_eq!((spec.eos.as_slice(), spec.rope_theta, spec.norm_eps), ([2].as_slice(), 100_000.0, 1e-5));
    let minilm = Checkpoint::open(&model_dir(MINILM)).unwrap();
    // The published count holds the pooler, which is left out.
    assert_eq!(weights(&minilm.units()).parameters, 22_713_216 - 384 * 385);
    let spec = format!("{:?}", minilm.spec);
    assert!(["heads: 12", "max_positions: 512", "norm_eps: 1e-12"].iter().all(|said| spec.contains(said)), "{spec}");
}

#[test]
fn the_reports_say_what_was_done() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let mut order = tiny::order(&model_dir(SMOLLM2), &out, 3);
    order.name = None;
    order.json = false;
    let mut text = Vec::new();
    stageline::cli::split::split(&order, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for said in [
        "smollm2-135m-instruct: 30 units in bf16, cut into 3 by cost for 512:128; KV cache for 32768 tokens a stage",
        "11..21",
        "even by units 37.3 %",
        "slowest stage: 34.5 % of the cost, 33.3 % at best",
        "microseconds of a unit, estimated",
        "embedding + layer 0 to layer 28",
        "tied: model.embed_tokens.weight",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    let manifest = Manifest::parse(&std::fs::read(out.join(Manifest::FILE)).unwrap()).unwrap();
    assert!(text.contains(&format!("digest {}", manifest.digest8())));
    let (mut shown, mut json) = (Vec::new(), Vec::new());
    stageline::cli::inspect::inspect(&out, false, &mut shown).unwrap();
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("model.layers.*.self_attn.k_proj.weight  BF16 [192, 576] × 10"), "{shown}");
    stageline::cli::inspect::inspect(&out, true, &mut json).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let tensors = json["stages"].as_array().unwrap().iter().map(|stage| stage["tensors"].as_array().unwrap().len());
    assert_eq!(tensors.sum::<usize>(), 272 + 1);
    stageline::cli::inspect::verify(&out, &mut Vec::new()).unwrap();
}
