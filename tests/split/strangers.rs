//! Folders and files that are no model of ours: each is told what it is, and what to do.

use crate::tiny;
use serde_json::json;
use stageline_model::Checkpoint;
use std::fs;
use std::path::Path;

/// What opening `dir` as a model says.
fn said(dir: &Path) -> String {
    let message = Checkpoint::open(dir).unwrap_err().message;
    assert!(!message.contains('\n'), "{message}");
    message
}

/// A folder of files, by name; a name that ends in `/` is a folder.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = root.path().join(name);
        fs::create_dir_all(if name.ends_with('/') { &path } else { path.parent().unwrap() }).unwrap();
        if !name.ends_with('/') {
            fs::write(path, content).unwrap();
        }
    }
    root
}

/// A file's name and what it holds.
type StrangersFile<'a> = (&'a str, &'a [u8]);

#[test]
fn folders_without_a_model() {
    let adapter = json!({"base_model_name_or_path": "meta-llama/Llama-3.2-1B", "peft_type": "LORA"}).to_string();
    let cases: [(&[StrangersFile], &str); 12] = [
        (&[], "is empty"),
        (&[("model.Q4_K_M.gguf", b"GGUF")], "model.Q4_K_M.gguf is a GGUF file"),
        (
            &[("adapter_config.json", adapter.as_bytes()), ("adapter_model.safetensors", b"")],
            "an adapter (adapter_config.json) for meta-llama/Llama-3.2-1B: merge it",
        ),
        (&[("adapter_config.json", b"["), ("adapter_model.bin", b"")], "for its base model: merge it"),
        (&[("pytorch_model.bin", b""), ("tokenizer.json", b"{}")], "save_pretrained"),
        (&[("params.json", b"{}"), ("consolidated.00.pth", b"")], "take the release for transformers"),
        (
            &[("blobs/", b""), ("refs/main", b"abc\n"), ("snapshots/abc/", b""), ("snapshots/abb/", b"")],
            "snapshots/abc",
        ),
        (&[("blobs/", b""), ("snapshots/", b"")], "a download cache without a snapshot"),
        (&[("models--a--b/snapshots/12/config.json", b"{}")], "models--a--b/snapshots/12"),
        (&[("Llama/config.json", b"{}"), ("README.md", b"")], "Llama does: name that folder"),
        (&[("pipeline.json", b"{}"), ("stage-0.safetensors", b"")], "is a pipeline, which is cut already"),
        (&[("stage-0.safetensors", b""), ("stage-1.safetensors", b"")], "shards but no pipeline.json"),
    ];
    for (files, want) in cases {
        let root = folder(files);
        let said = said(root.path());
        assert!(said.contains(want) && said.contains(root.path().to_str().unwrap()), "{want}: {said}");
    }
    let root = folder(&[("notes.txt", b"")]);
    assert!(said(root.path()).contains("config.json"));
    assert!(
        said(&root.path().join("org/name"))
            .contains("No such file or directory (os error 2). Name a folder on this machine")
    );
}

#[test]
fn configurations_without_weights() {
    let config = tiny::llama_config().to_string();
    for (files, want) in [
        (vec!["model.gguf"], "model.gguf is a GGUF file"),
        (vec!["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "save_pretrained"),
        (vec!["tf_model.h5"], "save_pretrained"),
        (vec!["adapter_config.json", "adapter_model.safetensors"], "it is an adapter"),
        (vec!["model-00001-of-00002.safetensors"], "model.safetensors.index.json, which says what is where, is not"),
        (vec!["model.safetensors.incomplete"], "is a download that did not end"),
        (
            vec!["merged.safetensors"],
            "merged.safetensors is there: if it is the whole model, call it model.safetensors",
        ),
        (vec!["consolidated.safetensors"], "take the release for transformers"),
        (vec![], "fetch the model again"),
    ] {
        let mut all: Vec<(&str, &[u8])> = vec![("config.json", config.as_bytes())];
        all.extend(files.iter().map(|name| (*name, b"{}".as_slice())));
        let said = said(folder(&all).path());
        let neither = "holds neither model.safetensors nor model.safetensors.index.json";
        assert!(said.contains(neither) && said.contains(want), "{want}: {said}");
    }
}

#[test]
fn files_that_are_not_what_their_name_says() {
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 4976698672\n";
    let whole = tiny::file(&tiny::llama());
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    for (weights, want) in [
        (lfs.as_slice(), "it is a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (b"GGUF\x03\0\0\0", "it is a GGUF file"),
        (b"PK\x03\x04\0\0\x08\x08\0\0", "it is a PyTorch file"),
        (b"<!DOCTYPE html>\n<html><head>", "it is a web page"),
        (b"", "0 bytes are too few for a safetensors file"),
        (&whole[..4], "fetch it again"),
        (&whole[..100], "it is truncated or lies; if a download did not end, fetch it again"),
        (&whole[..whole.len() - 8], "it is truncated or lies; if a download did not end, fetch it again"),
    ] {
        tiny::write(&model, &tiny::llama_config(), weights);
        let said = said(&model);
        assert!(said.contains(want) && said.contains("model.safetensors: "), "{want}: {said}");
    }
    for (content, want) in [
        (lfs.as_slice(), "is not a folder: it is a Git LFS pointer"),
        (b"GGUF", "is not a folder: it is a GGUF file"),
        (&whole, "is a file, not a folder: name the folder that it is in"),
    ] {
        let path = root.path().join("file");
        fs::write(&path, content).unwrap();
        assert!(said(&path).contains(want), "{}", said(&path));
    }
}
