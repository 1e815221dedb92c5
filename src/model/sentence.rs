//! How sentence-transformers makes a vector of an encoder's rows: by their mean, which is divided by its length or not.

use crate::settings::{Settings, shown};
use serde_json::{Value, json};
use stageline_base::Fault;
use stageline_base::limits::MAX_TOKENIZER_BYTES;
use stageline_shard::Files;
use std::path::{Path, PathBuf};

const MODULES: &str = "modules.json";
/// Where pooling is described, where nothing says so.
const POOLING: &str = "1_Pooling";

/// The folder of the model's own files in `dir`: `dir`, or the folder in it that modules.json names, as early releases of
/// sentence-transformers have it.
///
/// # Errors
/// If modules.json cannot be read, or asks for other modules than a transformer, its pooling and a normalisation.
pub fn own_dir(dir: &Path) -> Result<PathBuf, Fault> {
    if !dir.join(MODULES).exists() {
        return Ok(dir.into());
    }
    let files = Files::of_model(dir)?;
    let path = modules(&files)?.map(|modules| modules.transformer).unwrap_or_default();
    if path.is_empty() {
        return Ok(dir.into());
    }
    match files.folder(&path)? {
        Some(inner) => Ok(inner.dir().into()),
        None => {
            Err(files.wrong(MODULES, &format!("names the folder {path}, which is not there: fetch the model again")))
        }
    }
}

/// Checks the files that say how a vector is made, where they are there: of the folder `around` the model's own files, `own`.
/// `hidden` is the width of a row. Says whether a vector is divided by its length; where nobody says so, it is.
pub(crate) fn check(around: &Files, own: &Files, hidden: usize) -> Result<bool, Fault> {
    let modules = modules(around)?;
    let pooling = modules.as_ref().map_or(POOLING, |modules| modules.pooling.as_str());
    if let Some(folder) = around.folder(pooling)?
        && let Some(pooling) = folder.json("config.json")?
    {
        check_pooling(&pooling, hidden)?;
    }
    if let Some(file) = own.json("sentence_bert_config.json")? {
        let mut settings = Settings::of("sentence_bert_config.json", &file)?;
        // Where that library would cut a text silently, a request is refused that is longer than the model's positions.
        settings.inert(&["max_seq_length"]);
        settings.inert(&["unpad_inputs"]);
        // What it hands to transformers' own classes when it loads them, and what it takes of their answer.
        let rows = json!({"text": {"method": "forward", "method_output_name": "last_hidden_state"}});
        settings.only("modality_config", &[json!({}), rows]);
        settings.only("module_output_name", &[json!("token_embeddings")]);
        settings.only("processing_kwargs", &[json!({})]);
        settings.only("transformer_task", &[json!("feature-extraction")]);
        if settings.flag("do_lower_case", false) && !lowers(own)? {
            settings.refuse("do_lower_case", &json!(true), "only false: tokenizer.json does not do it");
        }
        settings.finish()?;
    }
    if let Some(file) = around.json("config_sentence_transformers.json")? {
        let mut settings = Settings::of("config_sentence_transformers.json", &file)?;
        // How vectors are compared, and prompts that are used only where a caller names them.
        settings.inert(&["__version__", "model_type", "prompts", "similarity_fn_name"]);
        let prompt = |name: &str| file.get("prompts").and_then(|prompts| prompts.get(name)).and_then(Value::as_str);
        if let Some(name) = settings.take("default_prompt_name")
            && name.as_str().and_then(prompt) != Some("")
        {
            settings.refuse("default_prompt_name", name, "only unset: put the prompt before each text yourself");
        }
        settings.finish()?;
    }
    Ok(modules.is_none_or(|modules| modules.normalize))
}

/// What modules.json asks for.
struct Modules {
    /// The folder of the transformer; empty if it is the model's.
    transformer: String,
    /// The folder of the pooling.
    pooling: String,
    normalize: bool,
}

/// Reads modules.json of `files`, if it is there.
fn modules(files: &Files) -> Result<Option<Modules>, Fault> {
    let Some(modules) = files.json(MODULES)? else { return Ok(None) };
    let text = |module: &Value, key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let modules: Vec<(String, String)> =
        modules.as_array().into_iter().flatten().map(|module| (text(module, "type"), text(module, "path"))).collect();
    let kinds: Vec<&str> = modules.iter().map(|(kind, _)| kind.rsplit('.').next().unwrap_or_default()).collect();
    let normalize = match kinds.as_slice() {
        ["Transformer", "Pooling"] => false,
        ["Transformer", "Pooling", "Normalize"] => true,
        _ => {
            return Err(Fault::invalid(format!(
                "modules.json: modules {} are not supported (only Transformer, Pooling and perhaps Normalize)",
                shown(&json!(kinds))
            )));
        }
    };
    let path = |module: usize| modules.get(module).map(|(_, path)| path.trim_matches('/')).unwrap_or_default();
    let (transformer, pooling) = (path(0), path(1));
    let is_name = |path: &str| stageline_plan::manifest::is_file_name(path);
    if !(transformer.is_empty() || is_name(transformer)) || !is_name(pooling) {
        let paths = json!([transformer, pooling]);
        return Err(Fault::invalid(format!("modules.json: paths {} are not supported", shown(&paths))));
    }
    Ok(Some(Modules { transformer: transformer.into(), pooling: pooling.into(), normalize }))
}

/// Whether the tokenizer has no capitals, so that it changes nothing to lower a text first.
fn lowers(files: &Files) -> Result<bool, Fault> {
    #[derive(serde::Deserialize)]
    struct Tokenizer {
        #[serde(default)]
        normalizer: Value,
    }
    let Some(bytes) = files.bytes("tokenizer.json", MAX_TOKENIZER_BYTES)? else { return Ok(false) };
    // What is wrong with the file is said by whoever uses it.
    let normalizer = serde_json::from_slice::<Tokenizer>(&bytes).map(|file| file.normalizer).unwrap_or_default();
    Ok(normalizer["type"] == "Lowercase" || normalizer["type"] == "BertNormalizer" && normalizer["lowercase"] == true)
}

fn check_pooling(config: &Value, hidden: usize) -> Result<(), Fault> {
    let mut settings = Settings::of("pooling config.json", config)?;
    // It concerns prompts, of which there are none.
    settings.inert(&["include_prompt"]);
    for width in ["word_embedding_dimension", "embedding_dimension"] {
        settings.only(width, &[json!(hidden)]);
    }
    settings.only("pooling_mode", &[json!("mean"), json!(["mean"])]);
    settings.only("pooling_mode_mean_tokens", &[json!(true)]);
    for other in ["cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"] {
        settings.only(&format!("pooling_mode_{other}"), &[json!(false)]);
    }
    settings.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content.to_string()).unwrap();
        }
        dir
    }

    fn check_of(dir: &tempfile::TempDir) -> Result<bool, Fault> {
        let files = Files::of_model(dir.path()).unwrap();
        check(&files, &files, 8)
    }

    fn modules(kinds: &[&str]) -> Value {
        let module = |(k, kind): (usize, &&str)| {
            let path = if k == 0 { String::new() } else { format!("{k}_{kind}") };
            json!({"idx": k, "name": k.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
        };
        kinds.iter().enumerate().map(module).collect()
    }

    #[test]
    fn only_the_mean_is_what_the_head_does() {
        let mean =
            json!({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false});
        let all = modules(&["Transformer", "Pooling", "Normalize"]);
        assert!(check_of(&folder(&[])).unwrap());
        for mean in [
            mean,
            json!({"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": true}),
            json!({"word_embedding_dimension": 8, "pooling_mode": ["mean"]}),
        ] {
            let of =
                |kinds: &[&str]| folder(&[("modules.json", modules(kinds)), ("1_Pooling/config.json", mean.clone())]);
            assert!(check_of(&of(&["Transformer", "Pooling", "Normalize"])).unwrap());
            assert!(!check_of(&of(&["Transformer", "Pooling"])).unwrap(), "no Normalize: as it is");
        }
        let pooled = |config: Value| folder(&[("1_Pooling/config.json", config)]);
        let module = |kinds: &[&str]| folder(&[("modules.json", modules(kinds))]);
        let mut away = all.clone();
        away[1]["path"] = json!("../x");
        for (folder, said) in [
            (pooled(json!({"pooling_mode_cls_token": true})), "pooling_mode_cls_token = true"),
            (pooled(json!({"pooling_mode_mean_tokens": false})), "pooling_mode_mean_tokens = false"),
            (pooled(json!({"word_embedding_dimension": 9})), "word_embedding_dimension = 9"),
            (pooled(json!({"pooling_mode_magic": true})), "pooling_mode_magic = true is not known"),
            (pooled(json!({"pooling_mode": "cls"})), r#"pooling_mode = "cls""#),
            (pooled(json!({"pooling_mode": ["mean", "max"]})), "pooling_mode = "),
            (module(&["Transformer"]), r#"modules ["Transformer"]"#),
            (module(&["Transformer", "Pooling", "Dense", "Normalize"]), "Dense"),
            (module(&[]), "modules []"),
            (folder(&[("modules.json", json!(3))]), "modules []"),
            (folder(&[("modules.json", away)]), "paths"),
            (folder(&[("sentence_bert_config.json", json!({"do_lower_case": true}))]), "do_lower_case = true"),
            (
                folder(&[("config_sentence_transformers.json", json!({"default_prompt_name": "q"}))]),
                "default_prompt_name",
            ),
        ] {
            let fault = check_of(&folder).unwrap_err();
            assert!(fault.message.contains(said), "{said}: {fault}");
        }
        let lowers = json!({"normalizer": {"type": "BertNormalizer", "lowercase": true}, "model": {}});
        for files in [
            [("sentence_bert_config.json", json!({"do_lower_case": true})), ("tokenizer.json", lowers)],
            [
                ("config_sentence_transformers.json", json!({"default_prompt_name": "q", "prompts": {"q": ""}})),
                ("sentence_bert_config.json", json!({"transformer_task": "feature-extraction", "modality_config": {}})),
            ],
        ] {
            assert!(check_of(&folder(&files)).is_ok());
        }
        let dir = folder(&[(
            "config_sentence_transformers.json",
            json!({"__version__": {}, "similarity_fn_name": "cosine"}),
        )]);
        assert!(check_of(&dir).is_ok());
    }
    #[test]
    fn the_transformer_may_lie_in_a_folder_of_its_own() {
        let dir = folder(&[]);
        assert_eq!(own_dir(dir.path()).unwrap(), dir.path());
        let mut within = modules(&["Transformer", "Pooling"]);
        within[0]["path"] = json!("0_Transformer");
        let dir = folder(&[("modules.json", within)]);
        let fault = own_dir(dir.path()).unwrap_err();
        assert!(fault.message.contains("names the folder 0_Transformer, which is not there"), "{fault}");
        std::fs::create_dir(dir.path().join("0_Transformer")).unwrap();
        assert_eq!(own_dir(dir.path()).unwrap(), dir.path().join("0_Transformer"));
    }
}
