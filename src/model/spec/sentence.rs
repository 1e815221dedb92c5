//! How sentence-transformers makes a vector of an encoder's rows: it must be what the head does, mean and L2 norm.

use super::settings::{Settings, shown};
use crate::base::Fault;
use crate::shard::Files;
use serde_json::{Value, json};

/// Checks the files of a model's folder that say so, where they are there; `hidden` is the width of a row.
pub(super) fn check(files: &Files, hidden: usize) -> Result<(), Fault> {
    let pooling = match files.json("modules.json")? {
        Some(modules) => pooling_folder(&modules)?,
        None => "1_Pooling".into(),
    };
    if let Some(folder) = files.folder(&pooling)?
        && let Some(pooling) = folder.json("config.json")?
    {
        check_pooling(&pooling, hidden)?;
    }
    if let Some(file) = files.json("sentence_bert_config.json")? {
        let mut settings = Settings::of("sentence_bert_config.json", &file)?;
        // Where that library would cut a text silently, a request is refused that is longer than the model's positions.
        settings.inert(&["max_seq_length"]);
        settings.only("do_lower_case", &[json!(false)]);
        settings.finish()?;
    }
    if let Some(file) = files.json("config_sentence_transformers.json")? {
        let mut settings = Settings::of("config_sentence_transformers.json", &file)?;
        // How vectors are compared, and prompts that are used only where a caller names them.
        settings.inert(&["__version__", "model_type", "prompts", "similarity_fn_name"]);
        settings.only("default_prompt_name", &[]);
        settings.finish()?;
    }
    Ok(())
}

/// The folder of the pooling module, after a check that there is nothing but transformer, pooling and normalisation.
fn pooling_folder(modules: &Value) -> Result<String, Fault> {
    let text = |module: &Value, key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let modules: Vec<(String, String)> =
        modules.as_array().into_iter().flatten().map(|module| (text(module, "type"), text(module, "path"))).collect();
    let kinds: Vec<&str> = modules.iter().map(|(kind, _)| kind.rsplit('.').next().unwrap_or_default()).collect();
    if kinds != ["Transformer", "Pooling", "Normalize"] {
        return Err(Fault::invalid(format!(
            "modules.json: modules {} are not supported (only Transformer, Pooling, Normalize)",
            shown(&json!(kinds))
        )));
    }
    let [(_, transformer), (_, pooling), _] = modules.as_slice() else { return Ok("1_Pooling".into()) };
    if !transformer.is_empty() || !crate::plan::manifest::is_file_name(pooling) {
        let paths = json!([transformer, pooling]);
        return Err(Fault::invalid(format!("modules.json: paths {} are not supported", shown(&paths))));
    }
    Ok(pooling.clone())
}

fn check_pooling(config: &Value, hidden: usize) -> Result<(), Fault> {
    let mut settings = Settings::of("pooling config.json", config)?;
    // It concerns prompts, of which there are none.
    settings.inert(&["include_prompt"]);
    settings.only("word_embedding_dimension", &[json!(hidden)]);
    settings.only("pooling_mode", &[json!("mean")]);
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

    fn check_of(dir: &tempfile::TempDir) -> Result<(), Fault> {
        check(&Files::of_model(dir.path()).unwrap(), 8)
    }

    fn modules(kinds: &[&str]) -> Value {
        let module = |(k, kind): (usize, &&str)| {
            let path = if k == 0 { String::new() } else { format!("{k}_{kind}") };
            json!({"idx": k, "name": k.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
        };
        kinds.iter().enumerate().map(module).collect()
    }

    #[test]
    fn only_mean_and_norm_are_what_the_head_does() {
        let mean =
            json!({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false});
        let all = modules(&["Transformer", "Pooling", "Normalize"]);
        assert!(check_of(&folder(&[])).is_ok());
        assert!(check_of(&folder(&[("modules.json", all.clone()), ("1_Pooling/config.json", mean.clone())])).is_ok());
        let pooled = |config: Value| folder(&[("1_Pooling/config.json", config)]);
        let module = |kinds: &[&str]| folder(&[("modules.json", modules(kinds))]);
        let mut away = all.clone();
        away[1]["path"] = json!("../x");
        for (folder, said) in [
            (pooled(json!({"pooling_mode_cls_token": true})), "pooling_mode_cls_token = true"),
            (pooled(json!({"pooling_mode_mean_tokens": false})), "pooling_mode_mean_tokens = false"),
            (pooled(json!({"word_embedding_dimension": 9})), "word_embedding_dimension = 9"),
            (pooled(json!({"pooling_mode_magic": true})), "pooling_mode_magic = true is not known"),
            (module(&["Transformer", "Pooling"]), r#"modules ["Transformer","Pooling"]"#),
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
        let dir = folder(&[(
            "config_sentence_transformers.json",
            json!({"__version__": {}, "similarity_fn_name": "cosine"}),
        )]);
        assert!(check_of(&dir).is_ok());
    }
}
