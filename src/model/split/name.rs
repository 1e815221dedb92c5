//! A pipeline's name where nobody gave one: made of the model's folder, and of those above it as far as that says nothing.

use stageline_base::Fault;
use stageline_plan::manifest::is_pipeline_name;
use stageline_shard::read::unreadable;
use std::path::{Component, Path};

/// Words that folders are called by whatever lies in them.
const VAGUE: [&str; 40] = [
    "app",
    "artifacts",
    "best",
    "blobs",
    "build",
    "cache",
    "checkpoint",
    "checkpoints",
    "current",
    "data",
    "default",
    "dist",
    "export",
    "final",
    "files",
    "home",
    "hub",
    "latest",
    "main",
    "master",
    "merged",
    "mnt",
    "model",
    "models",
    "opt",
    "out",
    "output",
    "pipeline",
    "pipelines",
    "prod",
    "release",
    "root",
    "safetensors",
    "snapshot",
    "snapshots",
    "srv",
    "tmp",
    "var",
    "weights",
    "work",
];
/// Fewest letters of a folder's name that says what it is: `7b` and `v1` do not.
const LEAST_LETTERS: usize = 3;
/// Fewest hexadecimal digits that are taken for a revision or a digest.
const LEAST_DIGITS: usize = 7;
/// Longest name.
const MAX_CHARS: usize = 63;

/// A name that was made up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeName {
    /// The name.
    pub name: String,
    /// Whether it says what the model is: if not, another model's folder may well make the same.
    pub telling: bool,
}

/// The name for the pipeline of the model at `dir`: lower case, `-` for what a name cannot hold. `…/llama-8b` makes
/// `llama-8b`, `…/llama-8b/v1/model` `llama-8b-v1-model`, and a download cache's `…/models--org--llama/snapshots/REVISION`
/// `org-llama`.
///
/// # Errors
/// `InvalidRequest` if `dir` is not there, or there is no letter or digit to make a name of.
pub fn pipeline_name(dir: &Path) -> Result<MadeName, Fault> {
    let real = dir.canonicalize().map_err(|error| unreadable(dir, &error))?;
    // A link's own name was chosen by whoever serves it.
    let typed = dir.file_name().map(|name| name.to_string_lossy().to_lowercase());
    if let Some(name) = typed.filter(|name| is_telling(name)).map(|name| legal(&name))
        && is_pipeline_name(&name)
    {
        return Ok(MadeName { name, telling: true });
    }
    let mut parts = Vec::new();
    let mut telling = false;
    for part in real.components().rev() {
        let Component::Normal(part) = part else { break };
        let part = part.to_string_lossy().to_lowercase();
        if let Some(repository) = part.strip_prefix("models--") {
            (parts, telling) = (vec![repository.replace("--", "-")], true);
            break;
        }
        telling = is_telling(&part);
        parts.push(part);
        if telling {
            break;
        }
    }
    parts.reverse();
    let name = legal(&parts.join("-"));
    match is_pipeline_name(&name) {
        true => Ok(MadeName { name, telling }),
        false => Err(Fault::invalid(format!("{} makes no name for a pipeline: give one", dir.display()))),
    }
}

/// Whether a folder's name, in lower case, says what lies in it.
fn is_telling(name: &str) -> bool {
    let revision = name.len() >= LEAST_DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit());
    let letters: String = name.chars().filter(|c| c.is_alphabetic()).collect();
    !revision && letters.len() >= LEAST_LETTERS && !VAGUE.contains(&letters.as_str())
}

fn legal(text: &str) -> String {
    let legal: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let legal: String = legal.trim_matches('-').chars().take(MAX_CHARS).collect();
    legal.trim_end_matches('-').into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_folder_names_its_pipeline() {
        let root = tempfile::tempdir().unwrap();
        for (folder, name) in [
            ("SmolLM2-135M_Instruct", "smollm2-135m-instruct"),
            ("--Über.x--", "ber-x"),
            ("llama-8b/v1/model", "llama-8b-v1-model"),
            ("llama-8b/v2/model", "llama-8b-v2-model"),
            ("llama-8b/7b", "llama-8b-7b"),
            ("Qwen/checkpoint-500", "qwen-checkpoint-500"),
            ("hub/models--Org--Tiny-1.5/snapshots/0123456789abcdef0123456789abcdef01234567", "org-tiny-1-5"),
            ("tiny/0123456789abcdef", "tiny-0123456789abcdef"),
            (&"x".repeat(80), &"x".repeat(63)),
        ] {
            let dir = root.path().join(folder);
            std::fs::create_dir_all(&dir).unwrap();
            assert_eq!(pipeline_name(&dir).unwrap(), MadeName { name: name.into(), telling: true }, "{folder}");
        }
        symlink("llama-8b/v1/model", root.path().join("chat-llama")).unwrap();
        symlink("llama-8b/v1/model", root.path().join("current")).unwrap();
        assert_eq!(pipeline_name(&root.path().join("chat-llama")).unwrap().name, "chat-llama");
        assert_eq!(pipeline_name(&root.path().join("current")).unwrap().name, "llama-8b-v1-model");
        assert!(pipeline_name(&root.path().join("absent")).is_err());
    }

    #[test]
    fn a_name_that_says_nothing_is_known_as_such() {
        for vague in ["model", "v1", "models", "7b", "123", "checkpoint-500", "..2026_11_30", "0123abcd", "___", "main"]
        {
            assert!(!is_telling(vague), "{vague}");
        }
        for telling in ["tiny", "llama-8b", "bge", "model-of-anna", "facade"] {
            assert!(is_telling(telling), "{telling}");
        }
        assert!(!pipeline_name(Path::new("/tmp")).unwrap().telling);
        assert!(pipeline_name(Path::new("/")).is_err());
    }
}
