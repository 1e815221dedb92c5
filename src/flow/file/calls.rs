//! Calls: whom, with what headers and query, and what takes them back.

use super::keys::Section;
use super::reading::{Fields, Reading, Sight};
use super::tree::{Tree, What};
use super::{names, report::quoted};
use crate::definition::{Call, Failure, Input, Place, Target, Template, Undo};
use serde_json::Value as Json;

/// Most headers of a call, and most entries of its query.
const MAX_ENTRIES: usize = 100;

/// A function as a target.
pub(super) fn function(calls_back: bool, name: &str) -> Target {
    Target::Function { name: name.to_owned(), calls_back }
}

/// The call of `target`, which is named at `place`, with what `fields` say of it.
pub(super) fn call(reading: &mut Reading<'_>, fields: &Fields<'_>, target: Target, place: Place) -> Call {
    reading.called.push((target.clone(), place));
    reading.word(fields, "mode", &[("sync", ()), ("async", ())]);
    let method = reading.parsed(fields, "method", names::method).unwrap_or_else(|| "POST".into());
    let headers = texts(reading, fields, "headers");
    let query = texts(reading, fields, "query");
    Call { target, method, headers, query }
}

/// A map of texts with expressions.
fn texts(reading: &mut Reading<'_>, fields: &Fields<'_>, name: &str) -> Vec<(String, Template)> {
    let Some((_, tree)) = fields.get(name) else { return Vec::new() };
    let mut all: Vec<(String, Template)> = Vec::new();
    let entries = reading.entries(tree, &format!("`{name}`"));
    if entries.len() > MAX_ENTRIES {
        reading.problem(tree.place, format!("`{name}` has more than {MAX_ENTRIES} entries"));
        return all;
    }
    for (key, value) in entries {
        if name == "headers" {
            let wrong = match names::header(&key.text) {
                Ok(()) if all.iter().any(|(known, _)| known.eq_ignore_ascii_case(&key.text)) => {
                    Err(format!("the header {} is there twice: capitals make no difference", quoted(&key.text)))
                }
                checked => checked,
            };
            if let Err(words) = wrong {
                reading.problem(key.place, words);
            }
        }
        let good = match &value.what {
            What::Scalar { value, text, .. } if name == "headers" && text.chars().any(char::is_control) => {
                Err(format!("one line is expected, this is {value}"))
            }
            What::Scalar { value: Json::Null, .. } => Err("a text is expected, this is nothing".into()),
            What::Scalar { .. } => Ok(()),
            _ => Err(format!("a text is expected, this is {}", value.kind())),
        };
        match good {
            Ok(()) => {
                let sight = Sight { secrets: true, ..reading.sight };
                let template = reading.template_in(sight, value);
                all.push((key.text.clone(), template));
            }
            Err(words) => reading.problem(value.place, format!("{}: {words}", quoted(&key.text))),
        }
    }
    all
}

/// What `undo` says.
pub(super) fn undo(reading: &mut Reading<'_>, fields: &Fields<'_>) -> Option<Undo> {
    let (key, tree) = fields.get("undo")?;
    let fields = reading.fields(tree, Section::Undo, "`undo`");
    let targets = fields.of(&["function", "pipeline", "url"]);
    let Some((kind, target)) = targets.first() else {
        if fields.whole {
            reading.problem(key.place, "`undo` says whom it calls: `function`, `pipeline` or `url`");
        }
        return None;
    };
    if let Some((second, _)) = targets.get(1) {
        reading.problem(second.place, format!("`undo` makes one call: it has `{}` already", kind.text));
    }
    if kind.text == "pipeline" {
        for (key, _) in fields.of(&["method", "headers", "query"]) {
            reading.problem(
                key.place,
                format!("`{}` means nothing with `pipeline`: it is for functions and URLs", key.text),
            );
        }
    }
    let before = reading.sight;
    reading.sight.output = true;
    let undo = undo_of(reading, &fields, &kind.text, target);
    reading.sight = before;
    Some(undo)
}

fn undo_of(reading: &mut Reading<'_>, fields: &Fields<'_>, kind: &str, tree: &Tree) -> Undo {
    let name = reading.text(fields, kind).unwrap_or_default();
    let (checked, target) = match kind {
        "function" => (names::function(&name), function(false, &name)),
        "pipeline" => (names::label(&name, "pipeline"), Target::Pipeline(name.clone())),
        _ => (names::url(&name), Target::Url(name.clone())),
    };
    if let (Err(words), false) = (checked, name.is_empty()) {
        reading.problem(tree.place, words);
    }
    let call = call(reading, fields, target, tree.place);
    let input = match fields.get("input") {
        Some((_, tree)) => Input::Given(reading.template_in(Sight { secrets: true, ..reading.sight }, tree)),
        None => Input::Usual,
    };
    Undo { call, input }
}

/// A failure after which a call is made again.
pub(super) fn failure(text: &str) -> Result<Failure, String> {
    let status = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    match text {
        "connect" => Ok(Failure::Connect),
        "timeout" => Ok(Failure::Timeout),
        "3xx" | "4xx" | "5xx" => Ok(Failure::Status(u16::from(text.as_bytes()[0] - b'0'))),
        _ => match status(text) {
            Some(status @ 300..=599) => Ok(Failure::Status(status)),
            _ => Err(format!("{} is no failure: connect, timeout, a status as 503, or 5xx is expected", quoted(text))),
        },
    }
}
