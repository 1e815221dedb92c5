//! One node.

use super::keys::Section;
use super::reading::{Fields, Reading, Sight, within};
use super::report::quoted;
use super::tree::{Key, Tree, What};
use super::{calls, names};
use crate::definition::{Call, Does, Each, Input, Node, Retry, Target, Template, Tolerate, Wait};
use crate::times;
use serde_json::Value as Json;
use std::time::Duration;

/// What a node may do.
const DEEDS: [&str; 7] = ["function", "pipeline", "url", "flow", "set", "wait", "nodes"];
/// Those that are calls.
const CALLS: [&str; 3] = ["function", "pipeline", "url"];
/// Keys that only some nodes take, and which.
const TAKERS: [(&str, &[&str], &str); 9] = [
    ("method", &["function", "url"], "functions and URLs"),
    ("headers", &["function", "url"], "functions and URLs"),
    ("query", &["function", "url"], "functions and URLs"),
    ("mode", &["function"], "functions"),
    ("stream", &["pipeline", "url"], "pipelines and URLs"),
    ("retry", &CALLS, "calls"),
    ("undo", &CALLS, "calls"),
    ("timeout", &["function", "pipeline", "url", "wait"], "calls and `wait: {signal: …}`"),
    ("input", &["function", "pipeline", "url", "flow", "nodes"], "calls, flows and groups"),
];
/// How long a call may take where nobody says.
pub(super) const CALL: Duration = Duration::from_secs(60);

/// The node of an entry.
pub(super) fn node(reading: &mut Reading<'_>, key: &Key, tree: &Tree) -> Node {
    let what = format!("the node {}", quoted(&key.text));
    let fields = reading.fields(tree, Section::Node, &what);
    let deeds = fields.of(&DEEDS);
    for (second, _) in deeds.iter().skip(1) {
        let first = deeds.first().map_or("", |(first, _)| &first.text);
        reading.problem(second.place, format!("{what} does one thing: it has `{first}` already"));
    }
    let deed = deeds.first().copied();
    let kind = deed.map_or("function", |(key, _)| &key.text);
    // What is misspelt may have been what the other keys are for.
    if fields.whole && deeds.len() < 2 {
        only_takers(reading, &fields, kind);
    }
    let before = begin(reading, &fields);
    let does = match deed {
        Some((_, tree)) => does(reading, &fields, kind, tree),
        // A map that is none has its problem already.
        None if !fields.whole => Does::Set(Template::Plain(Json::Null)),
        None => {
            if names::id(&key.text).is_ok() && names::function(&key.text).is_err() {
                let words = format!(
                    "{what} does not say what it does, and its id is no function's name: it needs `function`, `set` or such"
                );
                reading.problem(key.place, words);
            }
            Does::Call(calls::call(reading, &fields, calls::function(calls_back(&fields), &key.text), key.place))
        }
    };
    reading.after(&fields);
    end(reading, &fields, key, (does, before))
}

/// Whether it is called by `/async-function/`; a wrong word has its problem elsewhere.
pub(super) fn calls_back(fields: &Fields<'_>) -> bool {
    matches!(fields.get("mode"), Some((_, Tree { what: What::Scalar { text, .. }, .. })) if text == "async")
}

pub(super) fn only_takers(reading: &mut Reading<'_>, fields: &Fields<'_>, kind: &str) {
    for (name, takers, words) in TAKERS {
        if let Some((key, _)) = fields.get(name).filter(|_| !takers.contains(&kind)) {
            reading.problem(key.place, format!("`{name}` means nothing with `{kind}`: it is for {words}"));
        }
    }
    for name in ["parallel", "tolerate"] {
        if let Some((key, _)) = fields.get(name).filter(|_| !fields.has("foreach")) {
            reading.problem(key.place, format!("`{name}` means nothing without `foreach`"));
        }
    }
}

/// What of a node is read before the rest of it, and what was seen around it.
pub(super) struct Begun {
    when: Option<stageline_template::Expression>,
    each: Option<Each>,
    around: Sight,
}

/// Reads `when` and `foreach`, which do not see the item of the node's own `foreach`; what is read behind that does.
pub(super) fn begin(reading: &mut Reading<'_>, fields: &Fields<'_>) -> Begun {
    let around = reading.sight;
    let mut expression = |name: &str| fields.get(name).and_then(|(key, tree)| reading.expression(tree, &key.text));
    let (when, over) = (expression("when"), expression("foreach"));
    let parallel = reading.number(fields, "parallel", 1..=10_000).unwrap_or(8);
    let tolerate = reading.parsed(fields, "tolerate", tolerate).unwrap_or(Tolerate::Items(0));
    reading.sight.each |= fields.has("foreach");
    reading.sight.item |= fields.has("foreach") || !fields.whole;
    Begun { when, each: over.map(|over| Each { over, parallel, tolerate }), around }
}

/// Reads what is left of a node.
pub(super) fn end(reading: &mut Reading<'_>, fields: &Fields<'_>, key: &Key, (does, begun): (Does, Begun)) -> Node {
    let is_call = matches!(does, Does::Call(_)) || !fields.whole;
    let input = match fields.get("input") {
        Some((_, tree)) => Input::Given(reading.template_in(Sight { secrets: is_call, ..reading.sight }, tree)),
        None => Input::Usual,
    };
    let waits = if let Does::Wait(Wait::Signal(_)) = does { wait_timeout(reading, fields) } else { None };
    let own = reading.duration(fields, "timeout");
    if let (Does::Wait(Wait::For(_) | Wait::Until(_)), Some((key, _))) = (&does, fields.get("timeout")) {
        reading.problem(
            key.place,
            "`timeout` means nothing with `wait` for a time: it is for calls and `wait: {signal: …}`",
        );
    }
    let usual = if matches!(does, Does::Wait(Wait::Signal(_))) { reading.flow_timeout } else { CALL };
    let node = Node {
        id: key.text.clone(),
        place: key.place,
        input,
        parents: Vec::new(),
        sources: Vec::new(),
        when: begun.when,
        each: begun.each,
        timeout: waits.or(own).unwrap_or(usual),
        retry: retry(reading, fields),
        on_error: on_error(reading, fields),
        undo: calls::undo(reading, fields),
        is_async: is_async(reading, fields),
        streams: streams(reading, fields),
        does,
    };
    reading.sight = begun.around;
    node
}

fn does(reading: &mut Reading<'_>, fields: &Fields<'_>, kind: &str, tree: &Tree) -> Does {
    match kind {
        "set" => Does::Set(reading.template(tree)),
        "wait" => Does::Wait(wait(reading, tree)),
        "nodes" => {
            if matches!(&tree.what, What::Map(entries) if entries.is_empty()) || tree.is_null() {
                reading.problem(tree.place, "`nodes` is empty: a group has at least one node");
            }
            Does::Group(reading.graph(tree, "nodes").0)
        }
        "flow" => {
            let name = reading.text(fields, "flow").unwrap_or_default();
            if !name.is_empty() {
                reading.used.push((String::new(), name.clone(), tree.place));
            }
            Does::Flow(name)
        }
        _ => {
            let name = reading.text(fields, kind);
            let checked = name.as_deref().map_or(Ok(()), |name| match kind {
                "function" => names::function(name),
                "pipeline" => names::label(name, "pipeline"),
                _ => names::url(name),
            });
            if let Err(words) = checked {
                reading.problem(tree.place, words);
            }
            let name = name.unwrap_or_default();
            let target = match kind {
                "function" => calls::function(calls_back(fields), &name),
                "pipeline" => Target::Pipeline(name),
                _ => Target::Url(name),
            };
            Does::Call(calls::call(reading, fields, target, tree.place))
        }
    }
}

fn wait(reading: &mut Reading<'_>, tree: &Tree) -> Wait {
    let fields = reading.fields(tree, Section::Wait, "`wait`");
    let whats = fields.of(&["for", "until", "signal"]);
    match whats.as_slice() {
        [] if fields.whole => {
            reading.problem(fields.place, "`wait` says for what: `for`, `until` or `signal`");
        }
        [(first, _), (second, _), ..] => {
            reading.problem(second.place, format!("`wait` waits for one thing: it has `{}` already", first.text));
        }
        _ => {}
    }
    let Some((key, tree)) = whats.first() else { return Wait::For(Template::Plain(Json::Null)) };
    if let Some((timeout, _)) = fields.get("timeout").filter(|_| key.text != "signal") {
        reading.problem(timeout.place, "`timeout` means something only with `signal`");
    }
    if key.text == "signal" {
        let name = reading.text(&fields, "signal").unwrap_or_default();
        if !name.is_empty() && (name.len() > 100 || name.chars().any(char::is_control)) {
            reading.problem(tree.place, "`signal`: a name of at most 100 bytes on one line is expected");
        }
        return Wait::Signal(name);
    }
    let template = reading.template(tree);
    let is_for = key.text == "for";
    let speaks = matches!(&tree.what, What::Scalar { text, .. } if text.contains("{{") || text.contains("{%"));
    if !speaks {
        reading.scalar(tree, &key.text, |text| match is_for {
            true => times::duration(text).map(drop),
            false => times::moment(text).map(drop),
        });
    }
    if is_for { Wait::For(template) } else { Wait::Until(template) }
}

/// The time-out that stands inside of `wait`.
fn wait_timeout(reading: &mut Reading<'_>, fields: &Fields<'_>) -> Option<Duration> {
    let (_, tree) = fields.get("wait")?;
    let What::Map(_) = &tree.what else { return None };
    let inner = reading.fields(tree, Section::Wait, "`wait`");
    let time = reading.duration(&inner, "timeout");
    if let (Some(_), Some((outer, _))) = (time, fields.get("timeout")) {
        reading.problem(outer.place, "`timeout` is said twice: in `wait` and beside it");
    }
    time
}

fn tolerate(text: &str) -> Result<Tolerate, String> {
    let words = |_| "a number of items or a percentage is expected, as in 3 or 10%".to_owned();
    match text.strip_suffix('%') {
        Some(share) => within(share.trim_end(), &(0.0..=100.0)).map(Tolerate::Percent).map_err(words),
        None => within(text, &(0..=10_000)).map(Tolerate::Items).map_err(words),
    }
}

fn retry(reading: &mut Reading<'_>, fields: &Fields<'_>) -> Retry {
    let mut retry = Retry::default();
    let Some((_, tree)) = fields.get("retry") else { return retry };
    match &tree.what {
        What::Map(_) => {}
        What::Scalar { text, .. } if ["false", "none"].contains(&text.to_lowercase().as_str()) => {
            retry.attempts = 1;
            return retry;
        }
        _ => {
            let words = format!("`retry` takes a map, as in {{attempts: 4}}, or false: this is {}", tree.kind());
            reading.problem(tree.place, words);
            return retry;
        }
    }
    let fields = reading.fields(tree, Section::Retry, "`retry`");
    retry.attempts = reading.number(&fields, "attempts", 1..=100).unwrap_or(retry.attempts);
    retry.min = reading.duration(&fields, "min").unwrap_or(retry.min);
    retry.max = reading.duration(&fields, "max").unwrap_or(retry.max.max(retry.min));
    retry.factor = reading.number(&fields, "factor", 1.0..=100.0).unwrap_or(retry.factor);
    retry.within = reading.duration(&fields, "within");
    if let (true, Some((key, _))) = (retry.min > retry.max, fields.get("max")) {
        reading.problem(key.place, "`max` is shorter than `min`");
        retry.max = retry.min;
    }
    retry.on = fields.get("on").map(|(key, tree)| {
        let all = reading.texts(tree, &key.text);
        if all.is_empty() && matches!(tree.what, What::List(_)) {
            reading.problem(tree.place, "`on` names no failure: `retry: false` makes one call");
        }
        all.iter()
            .filter_map(|(text, place)| calls::failure(text).map_err(|words| reading.problem(*place, words)).ok())
            .collect()
    });
    retry
}

fn on_error(reading: &mut Reading<'_>, fields: &Fields<'_>) -> Option<Template> {
    let (key, tree) = fields.get("on_error")?;
    match &tree.what {
        What::Scalar { text, .. } if text == "fail" => return None,
        What::Map(_) => {}
        _ => {
            reading.problem(
                tree.place,
                format!("`on_error` is fail or a map, as in {{output: null}}: this is {}", tree.kind()),
            );
            return None;
        }
    }
    let fields = reading.fields(tree, Section::OnError, "`on_error`");
    if fields.whole && !fields.has("output") {
        reading.problem(key.place, "`on_error` says the `output` to go on with");
    }
    let before = std::mem::replace(&mut reading.sight.failed, true);
    let output = fields.get("output").map(|(_, tree)| reading.template(tree));
    reading.sight.failed = before;
    output
}

fn is_async(reading: &mut Reading<'_>, fields: &Fields<'_>) -> bool {
    let set = reading.flag(fields, "async").unwrap_or(false);
    if let (true, Some((key, _))) =
        (set && reading.levels.iter().filter(|level| level.is_read()).count() > 1, fields.get("async"))
    {
        reading.problem(key.place, "`async` is for a flow's own nodes: a group waits for all that is in it");
    }
    set
}

fn streams(reading: &mut Reading<'_>, fields: &Fields<'_>) -> bool {
    let set = reading.flag(fields, "stream").unwrap_or(false);
    let Some((key, _)) = fields.get("stream").filter(|_| set) else { return set };
    if reading.sight.each {
        reading.problem(key.place, "`stream` cannot be inside of `foreach`: a run has one stream");
    } else if reading.sight.ended {
        reading.problem(key.place, "`stream` cannot be in `on_failure` or `finally`: the run is over by then");
    } else if let Some(first) = reading.stream {
        let words = format!("a flow has one `stream`: there is one in line {}", first.line);
        reading.problem(key.place, words);
    } else {
        reading.stream = Some(key.place);
    }
    set
}

impl Call {
    /// A call of this target that says nothing else.
    pub(super) fn plain(target: Target) -> Self {
        Self { target, method: "POST".into(), headers: Vec::new(), query: Vec::new() }
    }
}
