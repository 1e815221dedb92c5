//! The JSON of answers and of their events.

use crate::durable::STATUSES;
use schemars::JsonSchema;
use serde::Serialize;
use stageline_base::TokenId;
use stageline_core::Observed;
use stageline_core::requests::FinishReason;

/// A decoder's whole answer.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Answer")]
pub(super) struct Whole {
    /// The answer.
    pub text: String,
    /// Its tokens.
    pub token_ids: Vec<TokenId>,
    /// Why it ended.
    #[schemars(schema_with = "reasons")]
    pub finish_reason: &'static str,
    /// The logits behind each token, where the request asked for `top_logits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<Vec<Logits>>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The request's id.
    pub call_id: String,
}

/// An encoder's whole answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Embedding {
    /// The vector: as many numbers as the model is wide.
    pub embedding: Vec<f32>,
    /// Tokens of the text.
    pub prompt_tokens: u32,
    /// The request's id.
    pub call_id: String,
}

/// How a durable request stands.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Standing")]
pub(super) struct StandingBody {
    /// Its id: `GET /requests/ID` tells how it stands, `DELETE` ends it.
    pub id: String,
    /// What has become of it.
    #[schemars(extend("enum" = STATUSES))]
    pub status: &'static str,
    /// Tokens of the answer so far.
    pub answer_tokens: u64,
    /// The id of the call that it was accepted with.
    pub call_id: String,
}

/// Durable requests, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listing {
    /// They.
    pub requests: Vec<Listed>,
}

/// A durable request, for who looks after them.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listed {
    /// Its id.
    pub id: String,
    /// The id of the call that it was accepted with.
    pub call_id: String,
    /// Whose it is: the name of its key; empty where nobody says who they are.
    pub principal: String,
    /// What has become of it. A dead one could not be told to whom it was to be, or its doors ended with it; `retry` tries it anew.
    #[schemars(extend("enum" = STATUSES))]
    pub status: &'static str,
    /// Why it failed, or is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Tokens of the answer so far.
    pub answer_tokens: u64,
    /// How often in a row a door ended with it in hand.
    pub deaths: u32,
    /// When it was accepted, in milliseconds since 1970.
    pub accepted_unix_ms: u64,
    /// When it must have ended.
    pub deadline_unix_ms: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
}

/// A durable request in a store that no door has, whose text nobody there knows.
#[derive(Debug, Serialize)]
pub(super) struct Shelved {
    /// As it is listed.
    #[serde(flatten)]
    pub listed: Listed,
    /// Tokens of its answer so far.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_ids: Vec<TokenId>,
    /// What its answer is, where that is tensors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorShape>,
}

/// What a tensor is like.
#[derive(Debug, Serialize)]
pub(super) struct TensorShape {
    /// Its name.
    pub name: String,
    /// What its elements are.
    pub element: &'static str,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
}

/// An event without a name, whose id is the token's place in the answer, from 0: one token.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TokenEvent {
    /// What it adds: empty while a character, or what may become a stop text, is incomplete.
    pub text: String,
    /// The token.
    pub token_id: TokenId,
    /// The logits behind it, where the request asked for `top_logits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<Logits>,
}

/// An event without a name or id: an encoder's vector.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct VectorEvent {
    /// As many numbers as the model is wide.
    pub embedding: Vec<f32>,
}

/// The event `done`, the last one of an answer that is whole.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct DoneEvent {
    /// What was still held back of the text.
    pub text: String,
    /// Why it ended.
    #[schemars(schema_with = "reasons")]
    pub finish_reason: &'static str,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub answer_tokens: u64,
    /// The request's id.
    pub call_id: String,
}

/// The largest logits behind a token.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Logits {
    /// 16 hexadecimal digits that are the same for rows of logits that are the same to the bit.
    #[schemars(extend("pattern" = "^[0-9a-f]{16}$"))]
    pub digest: String,
    /// The largest, largest first.
    pub top: Vec<Logit>,
}

/// A token's logit.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Logit {
    /// The token.
    pub id: TokenId,
    /// Its logit.
    pub logit: f32,
}

impl From<&Observed> for Logits {
    fn from(observed: &Observed) -> Self {
        let top = observed.top.iter().map(|&(id, logit)| Logit { id, logit }).collect();
        Self { digest: format!("{:016x}", observed.digest), top }
    }
}

/// Why an answer ends, as it is sent.
fn reasons(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string", "enum": [FinishReason::Stop.as_str(), FinishReason::Length.as_str()],
        "description": "Why it ended: the model ended it, or a stop text was reached; or it has `max_tokens` tokens.",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::written;
    use serde_json::json;

    #[test]
    fn names_are_in_order_and_numbers_have_all_their_digits() {
        let logits = || Logits::from(&Observed { digest: 0xab, top: vec![(4, 0.1), (2, -0.25)] });
        let shown =
            r#"{"digest":"00000000000000ab","top":[{"id":4,"logit":0.10000000149011612},{"id":2,"logit":-0.25}]}"#;
        let (text, call_id) = ("a".to_string(), "c".to_string());
        let whole = Whole { text, token_ids: vec![1], finish_reason: "stop", logits: None, prompt_tokens: 5, call_id };
        let plain = r#"{"call_id":"c","finish_reason":"stop","prompt_tokens":5,"text":"a","token_ids":[1]}"#;
        assert_eq!(written(&whole), plain);
        let want = format!(r#"{{"call_id":"c","finish_reason":"stop","logits":[{shown}],{}"#, &plain[38..]);
        assert_eq!(written(&Whole { logits: Some(vec![logits()]), ..whole }), want);
        let embedding = Embedding { embedding: vec![0.1, 1.0], prompt_tokens: 5, call_id: "c".into() };
        let want = r#"{"call_id":"c","embedding":[0.10000000149011612,1.0],"prompt_tokens":5}"#;
        assert_eq!(written(&embedding), want);
        let token = TokenEvent { text: "a".into(), token_id: 4, logits: Some(logits()) };
        assert_eq!(written(&token), format!(r#"{{"logits":{shown},"text":"a","token_id":4}}"#));
        assert_eq!(written(&TokenEvent { logits: None, ..token }), r#"{"text":"a","token_id":4}"#);
        let done = DoneEvent {
            text: "".into(),
            finish_reason: "length",
            prompt_tokens: 5,
            answer_tokens: 2,
            call_id: "c".into(),
        };
        let want =
            json!({"text": "", "finish_reason": "length", "prompt_tokens": 5, "answer_tokens": 2, "call_id": "c"});
        assert_eq!(written(&done), want.to_string());
    }
}
