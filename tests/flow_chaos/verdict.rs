//! What became of each run.

use crate::callers::Asked;
use crate::due;
use crate::engines::Engines;
use crate::functions::right;
use futures::StreamExt;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Runs that are asked for at once.
const AT_ONCE: usize = 16;

#[derive(Debug, Default)]
pub struct Verdict {
    pub ended: usize,
    cancelled: usize,
    calls: usize,
    pub wrong: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ended, cancelled, calls, wrong } = self;
        let wrong = wrong.len();
        write!(f, "{ended} runs ended, {cancelled} of them cancelled; {calls} calls recorded; {wrong} things are wrong")
    }
}

/// Looks at each run until it has ended.
pub async fn of(engines: &Engines, asked: Vec<Asked>) -> Verdict {
    let client = reqwest::Client::new();
    let address = engines.any();
    let looked = asked.into_iter().map(|run| {
        let (client, url) = (client.clone(), format!("{address}/runs/{}?full", run.id));
        async move { (ended(&client, &url).await, run) }
    });
    let mut looked = futures::stream::iter(looked).buffer_unordered(AT_ONCE);
    let mut verdict = Verdict::default();
    while let Some((said, run)) = looked.next().await {
        verdict.ended += 1;
        judge(&mut verdict, &said, &run);
    }
    verdict
}

/// What is said of a run that has ended and of whose end nothing is left to tell.
async fn ended(client: &reqwest::Client, url: &str) -> Value {
    loop {
        if let Ok(answer) = client.get(url).send().await
            && let Ok(said) = answer.json::<Value>().await
            && said["told"].is_string()
        {
            return said;
        }
        due(Duration::from_millis(50)).await;
    }
}

fn judge(verdict: &mut Verdict, said: &Value, run: &Asked) {
    let mut wrong = |what: String| verdict.wrong.push(format!("run {} of {}: {what}", run.id, run.flow));
    let events = said["events"].as_array().cloned().unwrap_or_default();
    let mut done: BTreeMap<String, u32> = BTreeMap::new();
    let (mut ends, mut cancelled, mut output) = (0, false, Value::Null);
    for event in &events {
        let node = event["node"].as_str().unwrap_or_default();
        match event["event"].as_str().unwrap_or_default() {
            "done" => *done.entry(node.to_owned()).or_default() += 1,
            "ordered" if event["order"]["cancel"].is_object() => cancelled = true,
            "called" => {
                verdict.calls += 1;
                if cancelled && !node.starts_with('~') {
                    wrong(format!("{node} was called after it was cancelled"));
                }
            }
            "ended" => {
                ends += 1;
                output = event["output"].clone();
            }
            _ => {}
        }
    }
    if ends != 1 {
        wrong(format!("it ended {ends} times"));
    }
    for (node, times) in done.iter().filter(|(_, times)| **times > 1) {
        wrong(format!("{node} is recorded {times} times"));
    }
    match said["status"].as_str().unwrap_or_default() {
        "succeeded" => {
            let right = right(run.flow, &run.input);
            if output != right {
                wrong(format!("it gave {output}, and should have given {right}"));
            }
        }
        "cancelled" if cancelled => verdict.cancelled += 1,
        status => wrong(format!("it is {status}: {}", said["error"])),
    }
    if run.cancelled && said["status"] == "succeeded" && cancelled {
        wrong("it was cancelled in its log, and succeeded".to_owned());
    }
    if run.flow == "work" && done.get("~finally.tidy") != Some(&1) {
        wrong("what is at the end of each run was not done once".to_owned());
    }
}
