//! Two reports side by side.

use crate::histogram::Summary;
use crate::report::{Document, Report, VERSION};
use stageline_base::Fault;

/// A number of two runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it is, with its unit.
    pub name: String,
    /// In the first report.
    pub before: Option<f64>,
    /// In the second.
    pub after: Option<f64>,
    /// Whether more of it is better; `None` if neither is.
    pub more_is_better: Option<bool>,
}

impl Line {
    /// By what share it rose, if it was there and not 0.
    pub fn change(&self) -> Option<f64> {
        let (before, after) = (self.before?, self.after?);
        (before != 0.0).then(|| after / before - 1.0)
    }
}

/// Two runs of the same level.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// How they were asked.
    pub title: String,
    /// What else differs between their scenarios, by name.
    pub differs: Vec<String>,
    /// Their numbers.
    pub lines: Vec<Line>,
}

/// Reads a report.
///
/// # Errors
/// `InvalidRequest` if it is none, or of another version.
pub fn read(text: &str) -> Result<Document, Fault> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| Fault::invalid(format!("it is no JSON ({error})")))?;
    match value["version"].as_u64() {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            let message =
                format!("it is a report of version {version}, and this program reads {VERSION}: make it anew");
            return Err(Fault::invalid(message));
        }
        None => return Err(Fault::invalid("it is not a report of `stageline load` (--out writes one)")),
    }
    serde_json::from_value(value).map_err(|error| Fault::invalid(format!("it is a broken report ({error})")))
}

/// Puts the runs of the two beside each other: by level if both are sweeps, else the first of each.
///
/// # Errors
/// `InvalidRequest` if they have nothing in common.
pub fn compare(before: &Document, after: &Document) -> Result<Vec<Pair>, Fault> {
    if let ([a], [b]) = (&before.runs[..], &after.runs[..]) {
        return Ok(vec![pair(a, b)]);
    }
    let partner = |a: &Report| after.runs.iter().find(|b| b.level() == a.level()).map(|b| pair(a, b));
    let pairs: Vec<Pair> = before.runs.iter().filter_map(partner).collect();
    if pairs.is_empty() {
        return Err(Fault::invalid("the two reports have no rate or concurrency in common: sweep the same levels"));
    }
    Ok(pairs)
}

fn pair(a: &Report, b: &Report) -> Pair {
    let mut lines = Vec::new();
    let mut line = |name: &str, more_is_better, of: &dyn Fn(&Report) -> Option<f64>| {
        let (before, after) = (of(a), of(b));
        if before.is_some() || after.is_some() {
            lines.push(Line { name: name.to_owned(), before, after, more_is_better });
        }
    };
    line("requests/s", Some(true), &|r| Some(r.requests_per_second));
    line("tokens/s", Some(true), &|r| Some(r.tokens_per_second));
    line("good requests/s", Some(true), &|r| Some(r.goodput_per_second));
    line("good %", Some(true), &|r| Some(100.0 * r.goodput_share));
    line("refused requests", Some(false), &|r| Some(r.refused_and_failed().0 as f64));
    line("failed requests", Some(false), &|r| Some(r.refused_and_failed().1 as f64));
    type Of = fn(&Report) -> Option<&Summary>;
    let times: [(&str, Of); 3] = [
        ("end to end", |r| r.end_to_end.as_ref()),
        ("first token", |r| r.time_to_first_token.as_ref()),
        ("between tokens", |r| r.between_tokens.as_ref()),
    ];
    for (name, of) in times {
        line(&format!("{name} p50 ms"), Some(false), &|r| of(r).map(|s| s.p50_ms));
        line(&format!("{name} p99 ms"), Some(false), &|r| of(r).map(|s| s.p99_ms));
        line(&format!("{name} p99.9 ms"), Some(false), &|r| of(r).map(|s| s.p999_ms));
    }
    line("refused p99 ms", Some(false), &|r| r.refusals.as_ref().map(|s| s.p99_ms));
    line("send lag p99 ms", Some(false), &|r| r.lag.as_ref().map(|s| s.p99_ms));
    for stage in 0..a.stages.len().max(b.stages.len()) {
        line(&format!("stage {stage} busy %"), None, &|r| r.stages.get(stage).map(|s| 100.0 * s.busy));
        line(&format!("stage {stage} mean batch"), None, &|r| r.stages.get(stage).map(|s| s.mean_batch));
    }
    Pair { title: a.scenario.shape.to_string(), differs: differences(a, b), lines }
}

/// Names of the settings in which the two runs differ.
fn differences(a: &Report, b: &Report) -> Vec<String> {
    let settings = |report: &Report| match serde_json::to_value(&report.scenario) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (a, b) = (settings(a), settings(b));
    a.iter().filter(|(name, value)| b.get(*name) != Some(value)).map(|(name, _)| name.clone()).collect()
}
