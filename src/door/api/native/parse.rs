//! From the head and body of an HTTP request to a [`Request`].

use super::fields::Fields;
use super::{go_duration, text};
use crate::http::{json, kinds};
use crate::site::Limits;
use crate::{Conversation, Input, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use stageline_base::{Fault, Gives, Takes, Task};
use std::time::Duration;

pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("x-timeout");

/// A request, and whether its answer is to come as a stream of events.
#[derive(Debug)]
pub(super) struct Parsed {
    pub request: Request,
    pub stream: bool,
}

/// The fields of which a model that does `task` is given one.
fn inputs(task: Task) -> &'static str {
    match task.gives {
        Gives::Tokens => "`prompt`, `messages` or `tokens`",
        Gives::Vector | Gives::Tensors => "`input` or `tokens`",
    }
}

/// The request that `body` holds: JSON if the Content-Type says so, or if it is an object with a field of ours (`curl -d` calls
/// everything a form, `faas-cli invoke` a plain text); otherwise all of it is the text.
///
/// # Errors
/// `InvalidRequest`, naming the field or header that is wrong and what it may be.
pub(super) fn parse(headers: &HeaderMap, body: &[u8], task: Task, limits: &Limits) -> Result<Parsed, Fault> {
    if task.takes == Takes::Tensors || task.gives == Gives::Tensors {
        let words = "this pipeline answers with tensors, or is asked with them: call Infer over gRPC";
        return Err(Fault::invalid(words));
    }
    let body = text::of(body)?;
    let kind = kinds::name(headers);
    let form = kinds::is_form(&kind).then(|| text::unescaped(body)).flatten();
    let body = match &form {
        Some(form) if names_a_field(form) => form,
        _ => body,
    };
    let mut fields = match kinds::is_json(&kind) || names_a_field(body) {
        true => {
            let fields = json::read(body.as_bytes())?;
            check_names(&fields, body, task)?;
            fields
        }
        false => plain(text::whole(body)?, task),
    };
    let stream = fields.stream == Some(true) || accepts_events(headers);
    let input = input(&mut fields, task)?;
    let deadline = deadline(headers, fields.deadline_ms, limits)?;
    // What its numbers may be is the reception's to say: it is the same whichever way a request comes.
    let request = Request {
        max_tokens: fields.max_tokens,
        sampling: fields.sampling(),
        stop: fields.stop.map(|stop| stop.0).unwrap_or_default(),
        deadline: Some(deadline),
        manifest: fields.manifest,
        // The call knows its id.
        ..Request::new("", input)
    };
    Ok(Parsed { request, stream })
}

/// The request that a body was read as when it was accepted.
///
/// # Errors
/// As [`parse`].
pub(in crate::api) fn stored(content_type: &str, body: &[u8], task: Task) -> Result<Request, Fault> {
    let kind = HeaderValue::from_str(content_type).ok().filter(|kind| !kind.is_empty());
    let headers = kind.map(|kind| (header::CONTENT_TYPE, kind)).into_iter().collect();
    // It was held against them then.
    let limits = Limits { default_deadline: Duration::MAX, max_deadline: Duration::MAX, ..Limits::default() };
    parse(&headers, body, task, &limits).map(|parsed| parsed.request)
}

/// Whether the client takes a stream of events; `q=0` says that it does not.
pub(in crate::api) fn accepts_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let mut accepted = accepted.map(|kind| kind.split(';').map(str::trim));
    accepted.any(|mut kind| {
        let events = kind.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream"));
        events && !kind.any(|weight| weight.strip_prefix(['q', 'Q']).is_some_and(is_zero))
    })
}

/// Whether `weight` is `=0`, with as many digits as there may be.
fn is_zero(weight: &str) -> bool {
    weight.trim_start().strip_prefix('=').and_then(|number| number.trim().parse::<f32>().ok()) == Some(0.0)
}

fn plain(text: &str, task: Task) -> Fields {
    let text = Some(text.to_string());
    match task.gives {
        Gives::Tokens => Fields { prompt: text, ..Fields::default() },
        Gives::Vector | Gives::Tensors => Fields { input: text, ..Fields::default() },
    }
}

/// Whether `body` is a JSON object that has one of our fields, whatever else is in it.
fn names_a_field(body: &str) -> bool {
    let known = json::names::<Fields>();
    json::first_name(body.as_bytes(), |name, _| known.contains(&name)).is_some()
}

/// Refuses the first of `fields`, read from `body`, that is for another kind of model.
fn check_names(fields: &Fields, body: &str, task: Task) -> Result<(), Fault> {
    const EMBED_FIELDS: [&str; 5] = ["input", "tokens", "deadline_ms", "stream", "manifest"];
    let stray = |name: &str, null: bool| !null && !EMBED_FIELDS.contains(&name);
    let stray = match task.gives {
        Gives::Tokens => fields.input.as_ref().map(|_| "input".to_string()),
        Gives::Vector | Gives::Tensors => json::first_name(body.as_bytes(), stray),
    };
    let Some(name) = stray else { return Ok(()) };
    Err(Fault::invalid(format!("this pipeline {}, so there is no `{name}`: send one of {}", task.verb(), inputs(task))))
}

/// What the model is given: exactly one of the fields that it knows.
fn input(fields: &mut Fields, task: Task) -> Result<Input, Fault> {
    let text = fields.prompt.take().or(fields.input.take()).map(Input::Text);
    let tools = fields.tools.take().map(|tools| tools.0);
    if tools.is_some() && fields.messages.is_none() {
        return Err(Fault::invalid("`tools` go with `messages`"));
    }
    let chat = fields.messages.take().map(|messages| Input::Chat(Conversation { messages: messages.0, tools }));
    let tokens = fields.tokens.take().map(Input::Tokens);
    let mut given = text.into_iter().chain(chat).chain(tokens);
    match (given.next(), given.next()) {
        (Some(Input::Chat(chat)), None) if chat.messages.is_empty() => {
            Err(Fault::invalid("`messages` is empty: send at least one message"))
        }
        (Some(input), None) => Ok(input),
        (None, _) => Err(Fault::invalid(format!("there is nothing to answer: send one of {}", inputs(task)))),
        (Some(_), Some(_)) => Err(Fault::invalid(format!("send only one of {}", inputs(task)))),
    }
}

/// How long the answer may take: what the body asks for or the default, and no longer than the client waits.
fn deadline(headers: &HeaderMap, asked_ms: Option<u64>, limits: &Limits) -> Result<Duration, Fault> {
    let asked = asked_ms.map_or(limits.default_deadline, Duration::from_millis);
    if asked > limits.max_deadline {
        let most = limits.max_deadline.as_millis();
        return Err(Fault::invalid(format!("`deadline_ms` may be at most {most}")));
    }
    if asked.is_zero() {
        return Err(Fault::invalid("`deadline_ms` may be 1 or more, not 0"));
    }
    Ok(patience(headers)?.map_or(asked, |patience| patience.min(asked)))
}

/// How long the client waits for an answer, as the head says.
///
/// # Errors
/// `InvalidRequest` if X-Timeout is no duration, or none at all.
pub(in crate::api) fn patience(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    let Some(header) = kinds::single(headers, &TIMEOUT)? else { return Ok(None) };
    let wrong = "the header X-Timeout must be a duration above 0 as Go writes it, such as 10s, 1m30s or 500ms";
    // Go writes microseconds with a letter that is not ASCII's.
    let patience =
        std::str::from_utf8(header.as_bytes()).ok().and_then(go_duration::parse).filter(|patience| !patience.is_zero());
    patience.map(Some).ok_or_else(|| Fault::invalid(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChatMessage;
    use axum::http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(pair).collect()
    }

    fn read(lines: &[(&'static str, &str)], body: &str, task: Task) -> Result<Parsed, String> {
        let seconds = Duration::from_secs;
        let limits = Limits { default_deadline: seconds(60), max_deadline: seconds(3600), ..Limits::default() };
        parse(&headers(lines), body.as_bytes(), task, &limits).map_err(|fault| fault.message)
    }

    const JSON: (&str, &str) = ("content-type", "application/json");

    #[test]
    fn a_body_is_json_if_its_type_says_so_or_if_it_is_a_request() {
        let input = |kind: Option<&str>, body: &str| {
            let lines: Vec<_> = kind.map(|kind| ("content-type", kind)).into_iter().collect();
            read(&lines, body, Task::GENERATE).map(|parsed| parsed.request.input)
        };
        let text = |text: &str| Ok(Input::Text(text.into()));
        let json = ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"];
        let others = ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"];
        for kind in json.into_iter().chain(others).map(Some).chain([None]) {
            assert_eq!(input(kind, " {\"prompt\": \"x\"}\n"), text("x"), "{kind:?}");
            let unknown = input(kind, "{\"prompt\": \"x\", \"promt\": 1}").unwrap_err();
            assert!(unknown.starts_with("there is no field `promt`"), "{kind:?}");
            assert_eq!(input(kind, r#"{"prompt": "{\"prompt\": 1}"}"#), text("{\"prompt\": 1}"), "{kind:?}");
        }
        for body in [r#"{"question": "x"}"#, "{\"prompt\": \"x\"", "{\"prompt\": \"x\"} x", "[{\"prompt\": 1}]", "{}"] {
            for kind in others.map(Some).into_iter().chain([None]) {
                assert_eq!(input(kind, body), text(body), "{kind:?}");
            }
            assert!(input(Some(json[0]), body).is_err(), "{body}");
        }
        assert!(read(&[], "", Task::GENERATE).unwrap_err().contains("empty"));
        let broken = parse(&HeaderMap::new(), b"ab\xff", Task::EMBED, &Limits::default()).unwrap_err();
        assert!(broken.message.contains("at byte 2"), "{broken}");
    }

    #[test]
    fn exactly_one_input_that_the_model_knows() {
        let input = |body: &str, task| read(&[JSON], body, task).map(|parsed| parsed.request.input);
        let message = ChatMessage::new("user", "x");
        assert_eq!(input(r#"{"tokens": [1, 2]}"#, Task::GENERATE), Ok(Input::Tokens(vec![1, 2])));
        assert_eq!(input(r#"{"tokens": [1, 2]}"#, Task::EMBED), Ok(Input::Tokens(vec![1, 2])));
        assert_eq!(input(r#"{"input": "x"}"#, Task::EMBED), Ok(Input::Text("x".into())));
        let chat = input(r#"{"messages": [{"role": "user", "content": "x"}]}"#, Task::GENERATE);
        assert_eq!(chat, Ok(Input::Chat(Conversation::of(vec![message]))));
        for (body, task, words) in [
            ("{}", Task::GENERATE, "send one of `prompt`, `messages` or `tokens`"),
            (r#"{"prompt": null}"#, Task::GENERATE, "there is nothing to answer"),
            (r#"{"prompt": "", "tokens": []}"#, Task::GENERATE, "send only one of"),
            (r#"{"messages": []}"#, Task::GENERATE, "`messages` is empty"),
            (r#"{"input": "x"}"#, Task::GENERATE, "this pipeline generates, so there is no `input`"),
            (r#"{"prompt": "x"}"#, Task::EMBED, "this pipeline embeds, so there is no `prompt`"),
            (r#"{"input": "x", "max_tokens": 3}"#, Task::EMBED, "there is no `max_tokens`"),
        ] {
            let message = input(body, task).unwrap_err();
            assert!(message.contains(words), "{body}: {message}");
        }
    }

    #[test]
    fn a_header_may_shorten_the_deadline_and_never_lengthen_it() {
        let deadline = |timeout: Option<&str>, body: &str| {
            let lines: Vec<_> = [JSON].into_iter().chain(timeout.map(|t| ("x-timeout", t))).collect();
            read(&lines, body, Task::GENERATE).map(|parsed| parsed.request.deadline.unwrap().as_millis())
        };
        let (plain, long) = (r#"{"prompt": "x"}"#, r#"{"prompt": "x", "deadline_ms": 90000}"#);
        assert_eq!(deadline(None, plain), Ok(60_000));
        assert_eq!(deadline(None, long), Ok(90_000));
        assert_eq!(deadline(Some("1.5s"), long), Ok(1500));
        assert_eq!(deadline(Some("2h"), plain), Ok(60_000));
        assert!(deadline(Some("soon"), plain).unwrap_err().contains("X-Timeout"));
        assert!(deadline(None, r#"{"prompt": "x", "deadline_ms": 3600001}"#).unwrap_err().contains("at most 3600000"));
    }

    #[test]
    fn a_stream_is_asked_for_by_header_or_field() {
        let stream = |accept: &str, body: &str| read(&[JSON, ("accept", accept)], body, Task::GENERATE).unwrap().stream;
        let (plain, on, off) =
            (r#"{"prompt": "x"}"#, r#"{"prompt": "x", "stream": true}"#, r#"{"prompt": "x", "stream": false}"#);
        assert!(stream("text/event-stream", plain) && stream("*/*", on) && stream("text/event-stream", off));
        assert!(stream("application/json;q=0.5, Text/Event-Stream;q=1", plain));
        assert!(!stream("*/*", plain) && !stream("text/*", off) && !stream("x-text/event-stream", plain));
        assert!(!stream("text/event-stream;q=0, */*", plain) && !stream("text/event-stream; Q = 0.000", plain));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200), json in any::<bool>(), embeds in any::<bool>()) {
            let headers = if json { headers(&[JSON]) } else { HeaderMap::new() };
            let task = if embeds { Task::EMBED } else { Task::GENERATE };
            let _ = parse(&headers, &body, task, &Limits::default());
        }
    }
}
