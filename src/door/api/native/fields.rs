//! The JSON body of a request. What is said here of a field, docs/http.md and docs/openapi.json say too: see `reference`.

use super::messages::{Messages, Tools};
use crate::http::json::decimal;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::{Value, json};
use stageline_base::limits::{DEFAULT_MAX_TOKENS, DIGEST_DIGITS, MAX_STOP_BYTES, MAX_STOP_STRINGS, MAX_TOP_LOGITS};
use stageline_base::sampling::{Bounds, REPETITION_PENALTY, TEMPERATURE, TOP_P};
use stageline_base::{AskedSampling, TokenId};
use std::borrow::Cow;
use std::fmt;

/// A request. Of `prompt`, `messages` and `tokens` a decoder is given one, and of `input` and `tokens` an encoder, which takes nothing
/// besides but `stream`, `deadline_ms` and `manifest`. A field that is null counts as absent.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Request")]
#[schemars(extend("oneOf" = ["prompt", "messages", "tokens", "input"].map(given)))]
#[schemars(extend("dependentRequired" = json!({ "tools": ["messages"] })))]
pub(super) struct Fields {
    /// The text to go on with.
    pub prompt: Option<String>,
    /// A conversation, laid out by the model's chat template.
    pub messages: Option<Messages>,
    /// With `messages`: what the template is told of tools.
    pub tools: Option<Tools>,
    /// The prompt as token ids.
    #[schemars(title = "a list of token ids", length(min = 1))]
    pub tokens: Option<Vec<TokenId>>,
    /// The text for an encoder.
    pub input: Option<String>,
    /// Most tokens of the answer; where it is absent, no more than the model has room for after the prompt.
    #[schemars(range(min = 1), extend("default" = DEFAULT_MAX_TOKENS))]
    pub max_tokens: Option<u32>,
    /// How even the chances of tokens are when one is drawn; 0 takes the likeliest, always.
    #[schemars(transform = within(TEMPERATURE))]
    pub temperature: Option<f32>,
    /// Draw from so many of the likeliest tokens; 0 for all.
    #[schemars(extend("default" = 0))]
    pub top_k: Option<u32>,
    /// Draw from the likeliest tokens that together have this probability; above 0.
    #[schemars(transform = within(TOP_P))]
    pub top_p: Option<f32>,
    /// Above 1 makes tokens that are there already less likely; 1 is no penalty.
    #[schemars(transform = within(REPETITION_PENALTY))]
    pub repetition_penalty: Option<f32>,
    /// Of the draw: the same request with the same seed has the same answer. One is drawn where it is absent.
    pub seed: Option<u64>,
    /// The answer ends before the first of these.
    pub stop: Option<Stop>,
    /// The most time that the request may take, in milliseconds from its head on; no more than the setting `exec_timeout`, which
    /// counts where it is absent. `X-Timeout` can shorten it.
    #[schemars(range(min = 1))]
    pub deadline_ms: Option<u64>,
    /// How many of the largest logits to report beside each token.
    #[schemars(range(max = MAX_TOP_LOGITS), extend("default" = 0))]
    pub top_logits: Option<u32>,
    /// Answer with events as the tokens come; the same as `Accept: text/event-stream`.
    #[schemars(extend("default" = false))]
    pub stream: Option<bool>,
    /// The pipeline that is to answer: the first digits of its manifest's SHA-256, in lower case. A door of another refuses.
    #[schemars(title = format!("{} to {} digits, 0-9 and a-f", DIGEST_DIGITS.start(), DIGEST_DIGITS.end()))]
    #[schemars(extend("pattern" = format!("^[0-9a-f]{{{},{}}}$", DIGEST_DIGITS.start(), DIGEST_DIGITS.end())))]
    pub manifest: Option<String>,
}

impl Fields {
    /// What it says of how tokens are drawn.
    pub(super) fn sampling(&self) -> AskedSampling {
        AskedSampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            top_logits: self.top_logits,
        }
    }
}

/// Has a description say the bounds.
fn within(bounds: Bounds) -> impl Fn(&mut Schema) {
    move |schema| {
        let least = if bounds.above { "exclusiveMinimum" } else { "minimum" };
        for (key, number) in [(least, bounds.least), ("maximum", bounds.most), ("default", bounds.default)] {
            schema.insert(key.into(), decimal(number));
        }
    }
}

/// That the field `name` is there, and not null.
fn given(name: &str) -> Value {
    json!({ "required": [name], "properties": { name: { "not": { "type": "null" } } } })
}

/// A text, or a list of not too many: without the limit, which the reception has too, a list of empty texts would take many
/// times the memory of its body.
#[derive(Debug)]
pub(super) struct Stop(pub Vec<String>);

impl JsonSchema for Stop {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Stop".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let title = format!("a text or a list of at most {MAX_STOP_STRINGS} texts");
        let (least, most) = (1, MAX_STOP_BYTES);
        json_schema!({
            "title": title, "type": ["string", "array"], "minLength": least, "maxLength": most,
            "items": { "type": "string", "minLength": least, "maxLength": most }, "maxItems": MAX_STOP_STRINGS,
        })
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Stop, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    if texts.len() == MAX_STOP_STRINGS {
                        return Err(A::Error::custom("too many texts"));
                    }
                    texts.push(text);
                }
                Ok(Stop(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChatMessage;
    use crate::http::json;

    fn read(body: &str) -> Result<Fields, String> {
        json::read(body.as_bytes()).map_err(|fault| fault.message)
    }

    fn refusal(body: &str) -> String {
        read(body).unwrap_err()
    }

    #[test]
    fn all_fields_are_read() {
        let fields = read(
            r#" {"prompt": "p\u00e9", "messages": [{"content": "c", "role": "user"}], "tools": [{"b": 1, "a": 2}], "tokens": [1, 4294967295], "input": "",
            "max_tokens": 3, "temperature": 1, "top_k": 0, "top_p": 0.5, "repetition_penalty": 1.25,
            "seed": 18446744073709551615, "stop": ["a", "b"], "deadline_ms": 10, "top_logits": 2, "stream": false, "manifest": "0011aabb"} "#,
        )
        .unwrap();
        assert_eq!(fields.prompt.as_deref(), Some("pé"));
        assert_eq!(fields.messages.unwrap().0, [ChatMessage::new("user", "c")]);
        assert!(fields.tools.is_some());
        assert_eq!(fields.tokens.unwrap(), [1, u32::MAX]);
        assert_eq!((fields.input.as_deref(), fields.manifest.as_deref()), (Some(""), Some("0011aabb")));
        assert_eq!((fields.temperature, fields.top_p, fields.repetition_penalty), (Some(1.0), Some(0.5), Some(1.25)));
        assert_eq!((fields.max_tokens, fields.top_k, fields.top_logits), (Some(3), Some(0), Some(2)));
        assert_eq!((fields.seed, fields.deadline_ms, fields.stream), (Some(u64::MAX), Some(10), Some(false)));
        assert_eq!(fields.stop.unwrap().0, ["a", "b"]);
        assert_eq!(read(r#"{"stop": "x"}"#).unwrap().stop.unwrap().0, ["x"]);
        let nulls = json::names::<Fields>().iter().map(|name| format!("\"{name}\": null")).collect::<Vec<_>>();
        let nothing = format!("{:?}", Fields::default());
        assert_eq!(format!("{:?}", read(&format!("{{{}}}", nulls.join(", "))).unwrap()), nothing);
    }

    #[test]
    fn every_field_of_the_wrong_type_is_named() {
        const A_COUNT: &str = "an integer from 0 to 4294967295";
        let expected = [
            ("prompt", "a text"),
            ("messages", r#"a list of {"role": "user", "content": a text}"#),
            ("tools", "a list of objects, of at most 100000 values in all"),
            ("tokens", "a list of token ids"),
            ("input", "a text"),
            ("max_tokens", "an integer from 1 to 4294967295"),
            ("temperature", "a number from 0 to 100"),
            ("top_k", A_COUNT),
            ("top_p", "a number above 0 and up to 1"),
            ("repetition_penalty", "a number from 0.01 to 100"),
            ("seed", "an integer from 0 to 18446744073709551615"),
            ("stop", "a text or a list of at most 16 texts"),
            ("deadline_ms", "an integer from 1 to 18446744073709551615"),
            ("top_logits", "an integer from 0 to 20"),
            ("stream", "true or false"),
            ("manifest", "8 to 64 digits, 0-9 and a-f"),
        ];
        assert_eq!(json::names::<Fields>(), expected.map(|(name, _)| name));
        for (name, expected) in expected {
            for wrong in ["{}", "[{}]", "-1.5e3", "\"\"", "true", "[null]", "{\"a\": [1]}"] {
                if (name, wrong) == ("messages", "[{}]") {
                    continue; // Says more: see `messages`.
                }
                let body = format!("{{\"{name}\": {wrong}}}");
                if let Err(message) = read(&body) {
                    assert_eq!(message, format!("`{name}` must be {expected}"), "{body}");
                }
            }
            assert!(read(&format!("{{\"{name}\": {{}}}}")).is_err(), "{name} may not be an object");
        }
        for body in [r#"{"top_k": 1.0}"#, r#"{"top_k": -1}"#, r#"{"top_k": 4294967296}"#, r#"{"top_k": "5"}"#] {
            assert_eq!(refusal(body), format!("`top_k` must be {A_COUNT}"), "{body}");
        }
        let many = format!("{{\"stop\": [{}]}}", ["\"x\""; 17].join(","));
        assert_eq!(refusal(&many), "`stop` must be a text or a list of at most 16 texts");
        assert_eq!(refusal(r#"{"tokens": [1, "at line 7"]}"#), "`tokens` must be a list of token ids");
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        let unknown = "there is no field `promt`: the fields are prompt, messages, tools, tokens, input, max_tokens, temperature, \
                       top_k, top_p, repetition_penalty, seed, stop, deadline_ms, top_logits, stream, manifest";
        assert_eq!(refusal(r#"{"promt": "x"}"#), unknown);
        assert_eq!(refusal(r#"{"prompt": "x", "promt": {"#), unknown);
        assert!(refusal(&format!("{{\"{}\\n\": 1}}", "x".repeat(100))).len() < 400);
        assert!(
            refusal("{\"`, expected\\n\": 1}").starts_with("there is no field ``, expected\\n`: the fields are prompt")
        );
        assert_eq!(refusal(r#"{"prompt": "a", "prompt": "b"}"#), "the field `prompt` is there twice");
        for body in ["[]", "\"x\"", "1", "null", "true", "[\"x\"]", "\"duplicate field `x`\""] {
            assert!(refusal(body).starts_with("the body must be a JSON object"), "{body}");
        }
        for (body, place) in [
            ("", "line 1, column 0"),
            ("{", "line 1, column 1"),
            ("{\"prompt\": \"x\"} x", "line 1, column 17"),
            ("{\"prompt\":\n \"x\",}", "line 2, column 6"),
            ("{'prompt': 1}", "line 1, column 2"),
            ("{\"prompt\": \"\u{1}\"}", "line 1, column 13"),
        ] {
            assert_eq!(refusal(body), format!("the body is not valid JSON ({place})"), "{body}");
        }
        assert!(json::read::<Fields>(b"{\"prompt\": \"\xff\"}").is_err());
        assert!(refusal(&"[".repeat(100_000)).starts_with("the body must be"));
        assert!(refusal(&format!("{{\"prompt\": {}", "[".repeat(100_000))).starts_with("`prompt` must be"));
    }
}
