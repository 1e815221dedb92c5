//! A job of the work queue, as JSON or as protobuf.

use crate::durable::{Api, Job};
use crate::http::json;
use axum::body::Bytes;
use prost::Message;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;
use stageline_base::Fault;
use stageline_base::limits::MAX_CALL_ID_BYTES;
use stageline_proto::durable as pb;

/// A job that says more than what it asks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Envelope {
    /// The request, as `POST /` takes it.
    #[schemars(with = "serde_json::Value")]
    request: Box<RawValue>,
    /// Its id.
    call_id: Option<String>,
    /// What makes it the same as another job.
    idempotency_key: Option<String>,
    /// Whom to tell of its end.
    callback_url: Option<String>,
}

/// Reads a job: an object of JSON, which is a request or has one as its field `request`, or else a `DurableRequest`.
///
/// # Errors
/// What is wrong with it.
pub(in crate::api) fn job(bytes: &Bytes) -> Result<Job, Fault> {
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        let is_envelope = json::first_name(bytes, |name, _| name == "request").is_some();
        return if is_envelope { enveloped(bytes) } else { Ok(plain(bytes.clone())) };
    }
    let words = "the job is neither an object of JSON nor a stageline.v1.DurableRequest";
    let message = pb::DurableRequest::decode(bytes.clone()).map_err(|_| Fault::invalid(words))?;
    if message.body.is_empty() {
        return Err(Fault::invalid(words));
    }
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let api = match message.api() {
        Api::UnknownApi => Api::Http,
        api => api,
    };
    Ok(Job {
        key: given(message.idempotency_key),
        call_id: legal(given(message.call_id))?,
        callback: given(message.callback_url),
        api,
        content_type: message.content_type,
        body: message.body,
    })
}

fn plain(body: Bytes) -> Job {
    let content_type = "application/json".to_owned();
    Job { key: None, call_id: None, callback: None, api: Api::Http, content_type, body }
}

fn enveloped(bytes: &[u8]) -> Result<Job, Fault> {
    let Envelope { request, call_id, idempotency_key, callback_url } = json::read(bytes)?;
    let body = Bytes::copy_from_slice(request.get().as_bytes());
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (key, call_id) = (given(idempotency_key), legal(given(call_id))?);
    Ok(Job { key, call_id, callback: given(callback_url), ..plain(body) })
}

/// An id that a log line and a header can show.
fn legal(id: Option<String>) -> Result<Option<String>, Fault> {
    let wrong = |id: &String| id.len() > MAX_CALL_ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_graphic());
    match id.as_ref().is_some_and(wrong) {
        true => {
            Err(Fault::invalid(format!("`call_id` may be {MAX_CALL_ID_BYTES} visible characters of ASCII at most")))
        }
        false => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_a_request_with_or_without_more() {
        let plain = br#" {"prompt": "x"}"#;
        let read = job(&Bytes::from_static(plain)).unwrap();
        assert_eq!((read.api, read.body.as_ref(), read.call_id), (Api::Http, &plain[..], None));
        let more =
            br#"{"request": {"prompt": "x"}, "call_id": "a", "callback_url": "http://b/", "idempotency_key": "k"}"#;
        let read = job(&Bytes::from_static(more)).unwrap();
        assert_eq!(read.body.as_ref(), br#"{"prompt": "x"}"#);
        let said = (read.key.as_deref(), read.call_id.as_deref(), read.callback.as_deref());
        assert_eq!(said, (Some("k"), Some("a"), Some("http://b/")));
        let message = pb::DurableRequest { body: Bytes::from_static(b"x"), call_id: "c".into(), ..Default::default() };
        let read = job(&message.encode_to_vec().into()).unwrap();
        assert_eq!((read.api, read.body.as_ref(), read.call_id.as_deref()), (Api::Http, &b"x"[..], Some("c")));
        for wrong in ["", "hello", r#"{"request": {"prompt": "x"}, "more": 1}"#, r#"{"request": 1, "call_id": "a b"}"#]
        {
            assert!(job(&Bytes::from_static(wrong.as_bytes())).is_err(), "{wrong}");
        }
    }
}
