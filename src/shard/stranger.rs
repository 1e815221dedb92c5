//! What a file or a folder is that is no model of ours, and where the model may be: words that lead somewhere.

use crate::names::{WEIGHTS, WEIGHTS_INDEX};
use stageline_base::Fault;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 4096;
/// How much of a file says what it is.
const FIRST_BYTES: u64 = 64;
/// What to take instead of a file of another library.
const CONVERT: &str = "stageline reads safetensors: take a release of the model that has them, or load it with transformers and save it with \
     save_pretrained";
/// What to do with an adapter.
const MERGE: &str =
    "merge it into that first (in peft: merge_and_unload, then save_pretrained), and name the merged folder";

/// What a file is that begins with `first` and should be a safetensors file; `None` if that is not known.
pub(crate) fn foreign(first: &[u8]) -> Option<&'static str> {
    let begins = |magic: &[u8]| first.starts_with(magic);
    let text = String::from_utf8_lossy(first).trim_start().to_ascii_lowercase();
    if begins(b"version https://git-lfs.github.com/spec/") {
        Some("it is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder")
    } else if begins(b"GGUF") || begins(b"lmgg") || begins(b"tjgg") {
        Some("it is a GGUF file: take the model's own release, a folder with config.json and safetensors")
    } else if begins(b"PK\x03\x04") || begins(b"\x80\x02") {
        Some("it is a PyTorch file: load it with transformers and save it with save_pretrained")
    } else if begins(b"\x89HDF") {
        Some("it is an HDF5 file: load it with transformers and save it with save_pretrained")
    } else if text.starts_with("<!doctype") || text.starts_with("<html") {
        Some("it is a web page, as a download leaves that was not let in: fetch it again, with a token if it needs one")
    } else {
        None
    }
}

/// Refuses what is no folder of a model, as far as that can be told better than by what it lacks.
///
/// # Errors
/// `InvalidRequest` that says what `dir` is instead, and what to do.
pub fn check_model_dir(dir: &Path) -> Result<(), Fault> {
    let said = |what: String| Fault::invalid(format!("{} {what}", dir.display()));
    match dir.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Fault::invalid(format!(
            "cannot open {}: {error}. Name a folder on this machine: a model on a hub is fetched first, say with `hf download \
             NAME --local-dir FOLDER`",
            dir.display()
        ))),
        Ok(found) if found.is_file() => Err(said(no_folder(dir))),
        // What else is wrong, whoever opens its files will say.
        _ if dir.join("config.json").symlink_metadata().is_ok() => Ok(()),
        _ => no_config(dir).map_or(Ok(()), |what| Err(said(what))),
    }
}

/// What a file is where a folder should have been named.
pub fn no_folder(path: &Path) -> String {
    let mut first = Vec::new();
    // What cannot be read says nothing; that it is a file is said all the same.
    let _ = File::open(path).and_then(|file| file.take(FIRST_BYTES).read_to_end(&mut first));
    match foreign(&first) {
        Some(what) => format!("is not a folder: {what}"),
        None => "is a file, not a folder: name the folder that it is in, with config.json and the weights".into(),
    }
}

/// Why a folder has no config.json.
fn no_config(dir: &Path) -> Option<String> {
    let names = names(dir);
    let has = |name: &str| names.contains(name);
    let inner = |name: &str| dir.join(name).join("config.json").exists();
    if names.is_empty() {
        return Some("is empty: name the folder that holds the model, or fetch the model into it".into());
    }
    if has("pipeline.json") {
        return Some("is a pipeline, which is cut already: it is served as it is, and cut anew from its model".into());
    }
    if has("snapshots") {
        let all = self::names(&dir.join("snapshots"));
        let main = std::fs::read_to_string(dir.join("refs/main")).unwrap_or_default();
        let chosen = all.get(main.trim()).or(all.first());
        return Some(match chosen {
            Some(revision) => {
                format!("is a download cache: name a snapshot in it, {}/snapshots/{revision}", dir.display())
            }
            None => "is a download cache without a snapshot: fetch the model again".into(),
        });
    }
    if let Some(cached) = names.iter().find(|name| name.starts_with("models--")) {
        let place = dir.join(cached).join("snapshots");
        let revision = self::names(&place).pop_first().unwrap_or_else(|| "REVISION".into());
        return Some(format!("is a cache of several models: name a snapshot in it, {}/{revision}", place.display()));
    }
    if has(WEIGHTS) || has(WEIGHTS_INDEX) {
        return None;
    }
    if let Some(what) = other_weights(dir, &names) {
        return Some(format!("holds no config.json: {what}"));
    }
    if has("stage-0.safetensors")
        || names.iter().any(|name| name.starts_with("stage-") && name.ends_with("0.safetensors"))
    {
        return Some("holds shards but no pipeline.json: split the model again, or copy the whole pipeline".into());
    }
    let deeper = names.iter().find(|name| inner(name))?;
    Some(format!("holds no config.json, but {} does: name that folder", dir.join(deeper).display()))
}

/// Why a folder has neither [`WEIGHTS`] nor [`WEIGHTS_INDEX`].
pub(crate) fn no_weights(dir: &Path) -> String {
    let names = names(dir);
    let what = other_weights(dir, &names).unwrap_or_else(|| "fetch the model again".into());
    format!("{} holds neither {WEIGHTS} nor {WEIGHTS_INDEX}: {what}", dir.display())
}

/// What to do where a folder has no tokenizer.json.
pub(crate) fn no_tokenizer(dir: &Path) -> String {
    let names = names(dir);
    let others = ["tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "vocab.txt", "merges.txt"];
    match others.iter().find(|name| names.contains(**name)) {
        Some(other) => format!(
            "{other} is, but stageline reads tokenizer.json: load the tokenizer with transformers' AutoTokenizer and save it with \
             save_pretrained"
        ),
        None => "fetch the model again".into(),
    }
}

/// What weights a folder has instead of ours.
fn other_weights(dir: &Path, names: &BTreeSet<String>) -> Option<String> {
    let ending = |ends: &[&str]| names.iter().find(|name| ends.iter().any(|end| name.ends_with(end)));
    let said = |name: &str, what: &str| Some(format!("{name} {what}"));
    if names.contains("adapter_config.json") {
        let text = std::fs::read(dir.join("adapter_config.json")).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let base =
            config.get("base_model_name_or_path").and_then(serde_json::Value::as_str).unwrap_or("its base model");
        let base: String = base.chars().take(120).collect();
        return Some(format!("it is an adapter (adapter_config.json) for {base}: {MERGE}"));
    }
    if let Some(partial) = ending(&[".incomplete", ".part", ".crdownload", ".aria2", ".partial"]) {
        return said(partial, "is a download that did not end: fetch the model again");
    }
    if let Some(name) = ending(&[".gguf", ".ggml"]) {
        return said(name, "is a GGUF file: take the model's own release, a folder with config.json and safetensors");
    }
    if let Some(name) = names.iter().find(|name| name.contains("-of-") && name.ends_with(".safetensors")) {
        return said(name, &format!("is there, but {WEIGHTS_INDEX}, which says what is where, is not: fetch that too"));
    }
    if let Some(name) = names.iter().find(|name| name.starts_with("consolidated")) {
        return said(name, "is of the model's first authors' own layout: take the release for transformers");
    }
    if let Some(name) =
        ending(&[".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".tflite"])
    {
        return said(name, &format!("is there, but {CONVERT}"));
    }
    let name = names.iter().find(|name| name.ends_with(".safetensors") && !name.starts_with("stage-"))?;
    said(name, &format!("is there: if it is the whole model, call it {WEIGHTS}"))
}

/// The names in a folder; none if it cannot be read.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(MAX_ENTRIES);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
