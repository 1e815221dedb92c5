//! What stands beside the flows: OpenFaaS's own keys, limits of targets, pipelines.

use super::keys::Section;
use super::reading::{Reading, within};
use super::report::quoted;
use super::tree::{Tree, What};
use super::{flows, names};
use crate::definition::{File, LocalPipeline, Target, TargetLimits};
use std::collections::{BTreeMap, BTreeSet};

/// The gateway of `provider`.
pub(super) fn gateway(reading: &mut Reading<'_>, tree: &Tree) -> Option<String> {
    let fields = super::reading::Fields::loose(tree);
    let text = reading.text(&fields, "gateway")?;
    let (_, tree) = fields.get("gateway")?;
    let url = flows::url(reading, &text, tree.place)?.trim_end_matches('/').to_owned();
    if url.contains(['?', '#']) {
        reading.problem(tree.place, "the gateway's URL has nothing behind its path");
    }
    Some(url)
}

/// The functions, each with the URL that is told its result.
pub(super) fn functions(reading: &mut Reading<'_>, tree: &Tree) -> BTreeMap<String, Option<String>> {
    let mut functions = BTreeMap::new();
    for (key, tree) in reading.entries(tree, "`functions`") {
        let fields = super::reading::Fields::loose(tree);
        let annotations = fields.get("annotations").map(|(_, tree)| super::reading::Fields::loose(tree));
        let url = annotations.filter(|annotations| annotations.has("callback_url")).and_then(|annotations| {
            let text = reading.text(&annotations, "callback_url")?;
            flows::url(reading, &text, annotations.get("callback_url")?.1.place)
        });
        functions.insert(key.text.clone(), url);
    }
    functions
}

/// `targets`.
pub(super) fn targets(reading: &mut Reading<'_>, tree: &Tree) -> BTreeMap<String, TargetLimits> {
    let mut limits = BTreeMap::new();
    let called = |(target, _): &_| match target {
        Target::Function { name, .. } | Target::Url(name) => Some(String::clone(name)),
        Target::Pipeline(_) => None,
    };
    let called: BTreeSet<String> = reading.called.iter().filter_map(called).collect();
    for (key, tree) in reading.entries(tree, "`targets`") {
        let what = format!("the target {}", quoted(&key.text));
        let checked = if key.text.contains(':') { names::url(&key.text) } else { names::function(&key.text) };
        if let Err(words) = checked {
            reading.problem(key.place, words);
        } else if reading.report.is_good() && !called.contains(&key.text) && !hooked(reading, &key.text) {
            reading.report.warning(key.place, format!("nothing in this file calls {what}"));
        }
        let fields = reading.fields(tree, Section::Target, &what);
        let concurrency = reading.number(&fields, "concurrency", 1..=1_000_000);
        let rate = reading.parsed(&fields, "rate", rate);
        if fields.of(&["concurrency", "rate"]).is_empty() && fields.whole {
            reading.problem(key.place, format!("{what} says nothing: it needs `concurrency`, `rate` or both"));
        }
        limits.insert(key.text.clone(), TargetLimits { concurrency, rate });
    }
    limits
}

/// Whether a function of the file may be called by its hooks.
fn hooked(reading: &Reading<'_>, name: &str) -> bool {
    reading.functions.as_ref().is_some_and(|functions| functions.contains_key(name))
}

/// Calls a second.
fn rate(text: &str) -> Result<f64, String> {
    let words = || "calls in a time are expected, as in 50/s, 100/m or 1000/h".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(words)?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(words()),
    };
    let number = within(number.trim(), &(0.0..=1e6)).map_err(|_| words())?;
    if number > 0.0 { Ok(number / seconds) } else { Err(words()) }
}

/// `pipelines`.
pub(super) fn pipelines(reading: &mut Reading<'_>, tree: &Tree) -> BTreeMap<String, LocalPipeline> {
    let mut pipelines = BTreeMap::new();
    for (key, tree) in reading.entries(tree, "`pipelines`") {
        let what = format!("the pipeline {}", quoted(&key.text));
        if let Err(words) = names::label(&key.text, "pipeline") {
            reading.problem(key.place, words);
        }
        let (model, stages) = match &tree.what {
            What::Scalar { text, .. } if !tree.is_null() && !text.is_empty() => (Some(text.clone()), 1),
            _ => {
                let fields = reading.fields(tree, Section::Pipeline, &what);
                if !fields.has("model") && fields.whole {
                    reading.problem(key.place, format!("{what} has no `model`: the folder that it is in"));
                }
                let stages = reading.number(&fields, "stages", 1..=256).unwrap_or(1);
                (reading.text(&fields, "model"), stages)
            }
        };
        pipelines.insert(key.text.clone(), LocalPipeline { model: model.unwrap_or_default(), stages });
    }
    pipelines
}

/// Most functions that are warned of.
const MOST: usize = 100;

/// Warns of functions that the file does not have, if it has any: the gateway may know them.
pub(super) fn warn_of_strangers(reading: &mut Reading<'_>, file: &File) {
    let Some(functions) = reading.functions.as_ref().filter(|_| reading.report.is_good()) else { return };
    let mut warnings = Vec::new();
    for (target, place) in &reading.called {
        if warnings.len() >= MOST {
            break;
        }
        if let Target::Function { name, .. } = target
            && !functions.contains_key(name)
            && !file.flows.contains_key(name)
            && !name.is_empty()
        {
            let meant = reading.report.meant(name, functions.keys().map(String::as_str));
            let meant = if meant.is_empty() { ": the gateway must know it".to_owned() } else { meant };
            warnings.push((*place, format!("the file has no function {}{meant}", quoted(name))));
        }
    }
    warnings.into_iter().for_each(|(place, words)| reading.report.warning(place, words));
}
