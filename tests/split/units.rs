//! What a manifest says of units, and who takes it.

use crate::tiny;
use serde_json::{Value, json};
use stageline::config::{DeviceConfig, DeviceName};
use stageline_model::ModelSpec;
use stageline_plan::{Goal, Manifest, Mix};
use stageline_server::Blueprint;
use std::fs;
use std::path::Path;

fn manifest(dir: &Path) -> Manifest {
    Manifest::parse(&fs::read(dir.join(Manifest::FILE)).unwrap()).unwrap()
}

/// The tiny decoder and the tiny encoder in folders below `root`.
fn models(root: &Path) -> [std::path::PathBuf; 2] {
    let [decoder, encoder] = ["decoder", "encoder"].map(|name| root.join(name));
    tiny::write(&decoder, &tiny::llama_config(), &tiny::file(&tiny::llama()));
    tiny::write(&encoder, &tiny::bert_config(), &tiny::file(&tiny::bert("")));
    [decoder, encoder]
}

#[test]
fn a_manifest_names_units_and_borders() {
    let root = tempfile::tempdir().unwrap();
    let [decoder, encoder] = models(root.path());
    for (model, last) in [(decoder, "layer 3 + head"), (encoder, "layer 3 + pooling")] {
        let out = root.path().join("out");
        tiny::run(&tiny::order(&model, &out, 2)).unwrap();
        let manifest = manifest(&out);
        assert_eq!(manifest.units, ["embedding + layer 0", "layer 1", "layer 2", last]);
        assert_eq!((manifest.version, manifest.mix.as_deref()), (2, Some("512:128")));
        let borders: Vec<_> = manifest.stages.iter().map(|stage| stage.border.concat()).collect();
        assert_eq!(borders, ["tokens u32 [rows, 1]", "hidden f32 [rows, 8]"]);
        assert!(Blueprint::open(&out, None, Goal::default()).is_ok());
    }
}

#[test]
fn what_was_split_before_there_were_units_is_served_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let [decoder, _] = models(root.path());
    let out = root.path().join("out");
    tiny::run(&tiny::order(&decoder, &out, 2)).unwrap();
    let mut old: Value = serde_json::from_slice(&fs::read(out.join(Manifest::FILE)).unwrap()).unwrap();
    let fields = old.as_object_mut().unwrap();
    fields.insert("version".into(), json!(1));
    fields.retain(|name, _| name != "units" && name != "mix");
    for stage in old["stages"].as_array_mut().unwrap() {
        let stage = stage.as_object_mut().unwrap();
        stage.remove("border");
        let units = stage.remove("units").unwrap();
        stage.insert("layers".into(), units);
    }
    fs::write(out.join(Manifest::FILE), old.to_string()).unwrap();
    let blueprint = Blueprint::open(&out, None, Goal::default()).unwrap();
    let layers: Vec<_> = blueprint.stages.iter().map(|stage| stage.layers.clone()).collect();
    assert_eq!(layers.first().unwrap().start, 0);
    assert_eq!(layers.last().unwrap().end, tiny::LAYERS);
    assert_eq!(blueprint.digest, manifest(&out).digest());
    let mut said = Vec::new();
    stageline::cli::inspect::inspect(&out, false, &mut said).unwrap();
    assert!(String::from_utf8(said).unwrap().contains("4 units of width 8"));
}

#[test]
fn units_of_another_program_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let [decoder, _] = models(root.path());
    let out = root.path().join("out");
    tiny::run(&tiny::order(&decoder, &out, 2)).unwrap();
    let whole = manifest(&out);
    assert!(ModelSpec::of_pipeline(&whole).is_ok());
    let refused = |change: &dyn Fn(&mut Manifest), said: &str| {
        let mut manifest = whole.clone();
        change(&mut manifest);
        manifest.validate().unwrap();
        let fault = ModelSpec::of_pipeline(&manifest).unwrap_err();
        assert!(fault.message.contains(said) && fault.message.contains("split the model again"), "{said}: {fault}");
    };
    refused(&|m| m.units[2] = "mixture 2".into(), "unit 2 is \"mixture 2\", but \"layer 2\" in this program");
    refused(
        &|m| {
            m.units.push("head".into());
            m.stages[1].units[1] += 1;
        },
        "unit 4 is \"head\", but none in this program",
    );
    refused(
        &|m| m.stages[1].border = vec!["hidden bf16 [rows, 8]".into()],
        "hidden bf16 [rows, 8] crosses the border of stage 1, but hidden f32 [rows, 8] in this program",
    );
}

#[test]
fn units_are_measured_where_they_are_to_run() {
    let root = tempfile::tempdir().unwrap();
    for (model, config, mut tensors) in
        [("decoder", tiny::llama_config(), tiny::llama()), ("encoder", tiny::bert_config(), tiny::bert(""))]
    {
        // Numbers that stay numbers on their way through the layers.
        for (_, _, bytes) in tensors.values_mut() {
            *bytes = 0.125_f32.to_le_bytes().repeat(bytes.len() / 4);
        }
        let model = root.path().join(model);
        tiny::write(&model, &config, &tiny::file(&tensors));
        let mut order = tiny::order(&model, &root.path().join("out"), 2);
        order.goal.mix = Mix { prompt: 12, answer: 4 };
        order.measure = Some(DeviceConfig {
            device: DeviceName::Cpu,
            threads: Some(1),
            numbers: None,
            share: 1.0,
            script: None,
            timeout: None,
        });
        let report = tiny::run(&order).unwrap();
        assert!(
            report["costs"].as_str().unwrap().starts_with("measured on cpu (executor candle, f32; 1 threads)"),
            "{report}"
        );
        let units = report["units"].as_array().unwrap();
        assert_eq!(units.len(), tiny::LAYERS);
        // How much time each takes is not for a test to say: beside what runs apart, these take next to none.
        assert!(units.iter().all(|unit| unit["ns"]["mix"].as_f64().unwrap() >= 0.0), "{report}");
        // Units 1 and 2 are alike, and cost the same.
        assert_eq!(units[1]["ns"], units[2]["ns"]);
    }
}
