//! The families of models, each in a folder of its own, and the one list that knows them all.

pub mod bert;
mod family;
mod inert;
pub mod llama;

use crate::settings::{Settings, shown};
pub use family::{Family, LayerRange};
use serde_json::Value;
use stageline_base::Fault;
use std::sync::Arc;

/// What a family runs: a line for each `model_type` that its models may state.
struct Kind {
    /// `model_type` of config.json.
    model_type: &'static str,
    /// What `architectures` may begin with; the first configurations state nothing else.
    architectures: &'static [&'static str],
    /// Reads the settings that are not [`inert`], and notes what is wrong with them.
    read: fn(&mut Settings<'_>) -> Arc<dyn Family>,
}

/// How keys begin that say in a pipeline's config.json what another file of the model's folder says.
pub const PIPELINE_WORD: &str = "stageline_";

/// Every family: a new one adds its line.
const FAMILIES: [&[Kind]; 2] = [llama::KINDS, bert::KINDS];

/// Makes what `config`, a config.json, asks for.
///
/// # Errors
/// `InvalidRequest`, one line that names every setting that is missing, wrong or not supported, with its value.
pub fn read(config: &Value) -> Result<Arc<dyn Family>, Fault> {
    let mut settings = Settings::of("config.json", config)?;
    let stated = settings.take("model_type");
    let found = match stated {
        Some(stated) => FAMILIES.into_iter().flatten().find(|kind| *stated == kind.model_type),
        None => implied(config),
    };
    let Some(kind) = found else {
        // Its other settings are of a family that is not known: complaining of each would say nothing.
        let (stated, known) = (shown(stated.unwrap_or(&Value::Null)), known());
        return Err(Fault::invalid(format!("config.json: model_type = {stated} is not supported (only {known})")));
    };
    inert::strike_off(&mut settings);
    settings.architectures(kind.architectures);
    let family = (kind.read)(&mut settings);
    settings.finish()?;
    Ok(family)
}

/// The kind that the first architecture of `config` implies.
fn implied(config: &Value) -> Option<&'static Kind> {
    let name = config.get("architectures")?.as_array()?.first()?.as_str()?;
    FAMILIES.into_iter().flatten().find(|kind| kind.architectures.contains(&name))
}

/// Every `model_type`, as one says them: "a, b or c".
fn known() -> String {
    let mut names: Vec<&str> = FAMILIES.into_iter().flatten().map(|kind| kind.model_type).collect();
    let last = names.pop().unwrap_or_default();
    format!("{} or {last}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    #[test]
    fn a_model_type_and_an_architecture_are_of_one_kind() {
        let (mut types, mut architectures) = (BTreeSet::new(), BTreeSet::new());
        for kind in FAMILIES.into_iter().flatten() {
            assert!(types.insert(kind.model_type), "{} twice", kind.model_type);
            for name in kind.architectures {
                assert!(architectures.insert(name), "{name} twice");
                let found = implied(&json!({"architectures": [name, "Other"]})).map(|kind| kind.model_type);
                assert_eq!(found, Some(kind.model_type));
            }
        }
    }

    #[test]
    fn a_refusal_names_every_model_type() {
        for config in [json!({"model_type": "mixtral"}), json!({"architectures": ["MixtralForCausalLM"]}), json!({})] {
            let fault = read(&config).unwrap_err();
            assert!(fault.message.ends_with("is not supported (only llama, mistral, qwen2, qwen3 or bert)"), "{fault}");
        }
    }
}
