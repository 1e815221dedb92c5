//! The real models, and what the reference implementation made of them.

use std::path::PathBuf;

pub const SMOLLM2: &str = "smollm2-135m-instruct";
pub const MINILM: &str = "all-minilm-l6-v2";

/// The folder of the model called `name`: in `STAGELINE_MODELS`, or in `~/.cache/stageline/models`.
pub fn model_dir(name: &str) -> PathBuf {
    let cache = || {
        let home = std::env::var_os("HOME").expect("HOME or STAGELINE_MODELS is set");
        PathBuf::from(home).join(".cache/stageline/models")
    };
    let dir = std::env::var_os("STAGELINE_MODELS").map_or_else(cache, PathBuf::from).join(name);
    let whole = dir.join("model.safetensors").is_file();
    assert!(
        whole,
        "{} is not there. These tests need real models: run scripts/test, which fetches them.",
        dir.display()
    );
    dir
}

/// The reference implementation's results for the model called `name`, case by case: in `STAGELINE_GOLDEN`, for tests that
/// run on another machine than they were built on, or in this folder's neighbour.
pub fn golden_cases(name: &str) -> Vec<serde_json::Value> {
    let here = || concat!(env!("STAGELINE_ROOT"), "/tests/golden").into();
    let path = std::env::var_os("STAGELINE_GOLDEN").map_or_else(here, PathBuf::from).join(format!("{name}.json"));
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).expect("the golden file")).expect("JSON");
    golden["cases"].as_array().expect("cases").clone()
}

/// A JSON array of token ids.
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().expect("an array").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Whether all of a matrix is to run, not only the part of it that is short enough for CI.
pub fn full_matrix() -> bool {
    std::env::var("STAGELINE_MODEL_MATRIX").is_ok_and(|matrix| matrix == "full")
}
