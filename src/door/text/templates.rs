//! Where a model keeps its chat template. What counts is as in transformers: chat_template.jinja, or else `chat_template` of
//! tokenizer_config.json, or else that of chat_template.json. Where it is a list of named ones, `default` counts, and
//! `tool_use` where a conversation comes with tools. An empty one counts as none.

use super::special::CONFIG;
use serde_json::{Map, Value};
use stageline_base::Fault;
use stageline_shard::Files;

const ALONE: &str = "chat_template.jinja";
const LEGACY: &str = "chat_template.json";

/// The template of a model, if it has one that can be used.
#[derive(Debug)]
pub(super) enum Found {
    /// Its text, that for conversations with tools if there is another, and the file that they are from.
    Template(String, Option<String>, &'static str),
    /// There is none; why conversations are refused.
    Nothing(String),
}

/// Finds it; `config` is tokenizer_config.json. Says in `warnings` what else might have been meant.
pub(super) fn find(files: &Files, config: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<Found, Fault> {
    let legacy = files.object(LEGACY)?.unwrap_or_default();
    let alone = files.text(ALONE)?.map(|text| vec![("default".to_string(), text)]);
    let places =
        [(ALONE, alone), (CONFIG, templates(files, CONFIG, config)?), (LEGACY, templates(files, LEGACY, &legacy)?)];
    let mut there = Vec::new();
    for (file, templates) in places.into_iter().filter_map(|(file, templates)| Some((file, templates?))) {
        // A text of nothing would leave a conversation without a word.
        if default_of(&templates).is_some_and(|text| text.trim().is_empty()) {
            warnings
                .push(format!("{file} has an empty chat template, which does not count: fetch it again, or remove it"));
        } else {
            there.push((file, templates));
        }
    }
    let mut there = there.into_iter();
    let Some((file, templates)) = there.next() else {
        return Ok(Found::Nothing("this model has no chat template: send `prompt` instead of `messages`".into()));
    };
    let Some(used) = default_of(&templates) else {
        let names: Vec<&str> = templates.iter().take(8).map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        warnings.push(format!(
            "{file} has chat templates ({names}), but none is called default: conversations are refused, prompts are not"
        ));
        return Ok(Found::Nothing(format!(
            "none of this model's chat templates ({names}) is called default: send `prompt` instead of `messages`"
        )));
    };
    for (other, templates) in there {
        if default_of(&templates).is_some_and(|text| ended(text) != ended(used)) {
            warnings.push(format!("{file} and {other} have different chat templates: that of {file} is used"));
        }
    }
    let for_tools = named(&templates, "tool_use").map(str::to_string);
    Ok(Found::Template(used.to_string(), for_tools, file))
}

fn default_of(templates: &[(String, String)]) -> Option<&str> {
    named(templates, "default")
}

fn named<'t>(templates: &'t [(String, String)], name: &str) -> Option<&'t str> {
    templates.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
}

/// Jinja leaves out one newline at a template's end.
fn ended(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

/// The named templates in `chat_template` of the file `name`: one text is the `default`.
fn templates(files: &Files, name: &str, object: &Map<String, Value>) -> Result<Option<Vec<(String, String)>>, Fault> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_string);
    let read: Option<Vec<_>> = match object.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => Some(vec![("default".into(), text.clone())]),
        Some(Value::Array(list)) => {
            list.iter().map(|one| Some((text(one.get("name"))?, text(one.get("template"))?))).collect()
        }
        Some(Value::Object(by_name)) => {
            by_name.iter().map(|(name, template)| Some((name.clone(), text(Some(template))?))).collect()
        }
        Some(_) => None,
    };
    let what = "has a `chat_template` that is neither a text nor a list of named texts: mend or remove it";
    read.map(Some).ok_or_else(|| files.wrong(name, what))
}
