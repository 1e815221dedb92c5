//! The JSON that the function door and the NATS door take, and what they answer.

use crate::target::{Failure, Progress};
use crate::workload::{Ask, Prompt};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

/// What a door is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Token by token.
    pub stream: bool,
    /// A vector rather than text.
    pub embeds: bool,
}

/// The body that asks for `ask`.
pub fn write(ask: &Ask, form: Form) -> Vec<u8> {
    let mut body = Map::new();
    match &ask.prompt {
        Prompt::Text(text) if form.embeds => body.insert("input".into(), json!(text)),
        Prompt::Text(text) => body.insert("prompt".into(), json!(text)),
        Prompt::Tokens(ids) => body.insert("tokens".into(), json!(ids)),
    };
    if !form.embeds {
        body.insert("max_tokens".into(), json!(ask.max_tokens));
        body.insert("temperature".into(), json!(ask.temperature));
        body.insert("seed".into(), json!(ask.seed));
    }
    if let Some(deadline) = ask.deadline {
        body.insert("deadline_ms".into(), json!(deadline.as_millis() as u64));
    }
    Value::from(body).to_string().into_bytes()
}

#[derive(Deserialize)]
struct Whole {
    token_ids: Option<Vec<IgnoredAny>>,
    embedding: Option<IgnoredAny>,
    prompt_tokens: Option<u32>,
}

/// Reads a whole answer.
pub fn read(body: &[u8], progress: &mut Progress) -> Result<(), Failure> {
    let whole: Whole = serde_json::from_slice(body)
        .map_err(|error| Failure::new("not_an_answer", format!("the answer is not what stageline sends: {error}")))?;
    progress.prompt(whole.prompt_tokens.unwrap_or(0));
    match (whole.token_ids, whole.embedding) {
        (Some(ids), _) => progress.whole(ids.len() as u32),
        (None, Some(_)) => {}
        (None, None) => return Err(Failure::new("not_an_answer", "the answer holds neither tokens nor a vector")),
    }
    Ok(())
}

/// What an answer with the HTTP status `status` says went wrong.
pub fn refusal(status: u16, body: &[u8]) -> Failure {
    let said: Option<Value> = serde_json::from_slice(body).ok();
    let word = |name: &str| said.as_ref().and_then(|said| said["error"][name].as_str()).map(str::to_owned);
    match word("class") {
        Some(class) => Failure::new(class, word("message").unwrap_or_default()),
        None => {
            let start: String = String::from_utf8_lossy(body).chars().take(120).collect();
            Failure::new(format!("http_{status}"), start)
        }
    }
}

/// Takes in one event of a stream; true at the last one.
pub fn event(name: &str, payload: &[u8], progress: &mut Progress) -> Result<bool, Failure> {
    match name {
        "error" => Err(refusal(0, payload)),
        "done" => {
            let last: Option<Whole> = serde_json::from_slice(payload).ok();
            progress.prompt(last.and_then(|last| last.prompt_tokens).unwrap_or(0));
            Ok(true)
        }
        // A vector is an answer in one piece. Tokens' texts may not hold this: it would be escaped.
        _ if payload.starts_with(b"{\"embedding\"") => Ok(false),
        _ => {
            progress.token();
            Ok(false)
        }
    }
}
