//! Calls of functions and URLs.

use super::outgoing::{Outgoing, again_in};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response};
use stageline_flow::definition::Target;
use stageline_flow::run::{CallOutcome, Calling, FailureClass, secret_mark};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of an answer that is a refusal, of which a reason is made.
const REASON_BYTES: usize = 512;

/// The Content-Type and the bytes of an answer.
pub type Answered = Result<(String, Bytes), CallOutcome>;

/// Whoever makes the calls of runs.
#[async_trait]
pub trait Caller: Send + Sync {
    /// Calls, with a body of that Content-Type (empty: none).
    async fn call(&self, call: &Calling, body: (&str, Bytes)) -> Answered;
}

/// Whoever knows pipelines.
#[async_trait]
pub trait Pipelines: Send + Sync {
    /// Asks the pipeline of that name. The id of the call is the request's key: what has been asked is not computed again.
    async fn ask(&self, pipeline: &str, call: &Calling, body: (&str, Bytes)) -> Answered;
}

/// Calls over HTTP; pipelines as its setup says.
pub struct HttpCaller {
    client: Client,
    outgoing: Outgoing,
    /// Instead of what a file says.
    gateway: Option<String>,
    pipelines: Option<Arc<dyn Pipelines>>,
    secrets: Option<PathBuf>,
    most_bytes: u64,
}

/// A call that failed, and that may be made again.
pub(crate) fn passing(class: FailureClass, reason: impl Into<String>) -> CallOutcome {
    CallOutcome { class, reason: reason.into(), retry_after: None, transient: true, counts: true }
}

/// A call that is no use.
pub(crate) fn useless(class: FailureClass, reason: impl Into<String>) -> CallOutcome {
    CallOutcome { transient: false, ..passing(class, reason) }
}

impl HttpCaller {
    /// One that calls whom `outgoing` allows, functions through `gateway` whatever their file says, with secrets of a folder, a file each.
    ///
    /// # Errors
    /// The library cannot be set up.
    pub fn new(
        outgoing: Outgoing,
        gateway: Option<String>,
        pipelines: Option<Arc<dyn Pipelines>>,
        secrets: Option<PathBuf>,
        most_bytes: u64,
    ) -> reqwest::Result<Self> {
        let client = outgoing.client(CONNECT)?;
        Ok(Self { client, outgoing, gateway, pipelines, secrets, most_bytes })
    }

    fn url(&self, call: &Calling) -> Result<String, CallOutcome> {
        let refused = |words: &str| useless(FailureClass::Refused, words);
        match &call.target {
            Target::Url(url) => Ok(url.clone()),
            Target::Function { name, calls_back: false } => {
                let gateway = self.gateway.as_ref().or(call.gateway.as_ref());
                let gateway = gateway.ok_or_else(|| {
                    refused("no gateway is known: say `provider.gateway` in the file, or --gateway URL")
                })?;
                Ok(format!("{}/function/{name}", gateway.trim_end_matches('/')))
            }
            Target::Function { calls_back: true, .. } => Err(refused(
                "`mode: async` is not for this engine: call the function with `mode: sync`, and a timeout that is long enough",
            )),
            Target::Pipeline(_) => {
                Err(refused("no pipeline is known here: say --nats URL, or `pipelines` in the file"))
            }
        }
    }

    async fn over_http(&self, call: &Calling, (kind, body): (&str, Bytes)) -> Answered {
        let secrets = self.secrets_of(call, &body);
        let filled = |text: &str| filled(text, call.nonce, &secrets);
        let url = self.outgoing.check("the URL", &filled(&self.url(call)?));
        let mut url = url.map_err(|fault| useless(FailureClass::Refused, fault.message))?;
        if !call.with.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.with.query.iter().map(|(name, value)| (name, filled(value))));
        }
        let method = Method::from_bytes(call.method.as_bytes())
            .map_err(|_| useless(FailureClass::Refused, format!("`{}` is no method of HTTP", call.method)))?;
        let body = match std::str::from_utf8(&body) {
            Ok(text) if !secrets.is_empty() => Bytes::from(filled(text)),
            _ => body,
        };
        let mut headers = HeaderMap::new();
        let said = [
            ("content-type", kind.to_owned()),
            ("x-call-id", call.id.clone()),
            ("idempotency-key", call.id.clone()),
            ("x-stageline-attempt", call.attempt.to_string()),
        ];
        let said = said.into_iter().filter(|(_, value)| !value.is_empty());
        let more = call.with.headers.iter().map(|(name, value)| (name.as_str(), filled(value)));
        for (name, value) in said.chain(more) {
            let pair = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value));
            let (Ok(name), Ok(value)) = pair else {
                return Err(useless(FailureClass::Value, format!("the header {name} holds what HTTP's may not")));
            };
            headers.insert(name, value);
        }
        let request = self.client.request(method, url).headers(headers).timeout(call.timeout).body(body);
        let answer = request.send().await.map_err(|error| unanswered(&error))?;
        self.answered(answer).await
    }

    async fn answered(&self, answer: Response) -> Answered {
        let status = answer.status();
        let header = |name: HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let kind = header(CONTENT_TYPE).unwrap_or_default().to_owned();
        let gateways = header(HeaderName::from_static("x-openfaas-internal")).is_some();
        let retry_after = again_in(answer.headers(), SystemTime::now());
        if status.is_success() {
            return self.read(answer).await.map(|bytes| (kind, bytes));
        }
        let mut said = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(Ok(piece)) = pieces.next().await {
            said.extend_from_slice(&piece[..piece.len().min(REASON_BYTES - said.len())]);
            if said.len() == REASON_BYTES {
                break;
            }
        }
        let said = String::from_utf8_lossy(&said);
        let reason = match said.trim() {
            "" => format!("it was answered with status {}", status.as_u16()),
            said => format!("it was answered with status {}: {said}", status.as_u16()),
        };
        let number = status.as_u16();
        let transient = matches!(number, 408 | 429 | 502..=504) || (number == 500 && gateways);
        // What bears no more calls for now says so by these.
        let counts = !matches!(number, 429 | 503);
        Err(CallOutcome { class: FailureClass::Status(number), reason, retry_after, transient, counts })
    }

    async fn read(&self, answer: Response) -> Result<Bytes, CallOutcome> {
        let most = self.most_bytes;
        let too_large =
            || useless(FailureClass::TooLarge, format!("the answer is larger than the {most} bytes that a flow takes"));
        if answer.content_length().is_some_and(|length| length > most) {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| unanswered(&error))?);
            if bytes.len() as u64 > most {
                return Err(too_large());
            }
        }
        Ok(bytes.freeze())
    }

    /// The secrets that a call names, by name.
    fn secrets_of(&self, call: &Calling, body: &[u8]) -> BTreeMap<String, String> {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let url = if let Target::Url(url) = &call.target { url.as_str() } else { "" };
        let pairs = call.with.headers.iter().chain(&call.with.query).map(|(_, value)| value.as_str());
        let mut found = BTreeMap::new();
        for text in pairs.chain([text, url]) {
            for name in marked(text, call.nonce) {
                let secret = self.secrets.as_ref().and_then(|folder| secret(folder, &name));
                if secret.is_none() {
                    tracing::warn!(
                        call_id = call.id,
                        name,
                        "a secret that a flow names is not there: nothing is in its place"
                    );
                }
                found.insert(name, secret.unwrap_or_default());
            }
        }
        found
    }
}

/// The secret in the file of that name, without the line's end.
fn secret(folder: &Path, name: &str) -> Option<String> {
    let legal =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let text = legal.then(|| std::fs::read_to_string(folder.join(name)).ok()).flatten()?;
    Some(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// The names whose marks stand in a text.
fn marked(text: &str, nonce: u64) -> Vec<String> {
    // JSON writes the mark's first character in another way.
    let mark = secret_mark(nonce, "");
    let begin = mark.trim_matches('\u{1}');
    let found = text.match_indices(begin).filter_map(|(at, _)| {
        let rest = &text[at + begin.len()..];
        rest.split(['\u{1}', '\\']).next().map(str::to_owned)
    });
    found.collect()
}

/// A text with secrets in the places of their marks, which JSON may have written in its own way.
fn filled(text: &str, nonce: u64, secrets: &BTreeMap<String, String>) -> String {
    secrets.iter().fold(text.to_owned(), |text, (name, secret)| {
        let mark = secret_mark(nonce, name);
        let json = |text: &str| serde_json::Value::from(text).to_string();
        let (written, secret_written) = (json(&mark), json(secret));
        let within = |quoted: &str| quoted[1..quoted.len() - 1].to_owned();
        text.replace(&mark, secret).replace(&within(&written), &within(&secret_written))
    })
}

fn unanswered(error: &reqwest::Error) -> CallOutcome {
    let class = if error.is_timeout() { FailureClass::Timeout } else { FailureClass::Connect };
    // The library tells the cause apart from what failed.
    let cause = std::iter::successors(std::error::Error::source(error), |error| error.source()).last();
    let words = match (class, cause) {
        (FailureClass::Timeout, _) => "it was not answered in time".to_owned(),
        (_, Some(cause)) => format!("it could not be called: {cause}"),
        (_, None) => format!("it could not be called: {error}"),
    };
    match cause.is_some_and(|cause| cause.to_string().contains("never called")) {
        true => useless(FailureClass::Refused, words),
        false => passing(class, words),
    }
}

#[async_trait]
impl Caller for HttpCaller {
    async fn call(&self, call: &Calling, body: (&str, Bytes)) -> Answered {
        match (&call.target, &self.pipelines) {
            (Target::Pipeline(name), Some(pipelines)) => pipelines.ask(name, call, body).await,
            _ => self.over_http(call, body).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stand_where_their_marks_stood_also_within_json() {
        let mark = secret_mark(7, "TOKEN");
        let text = format!("Bearer {mark}");
        assert_eq!(marked(&text, 7), ["TOKEN"]);
        assert!(marked(&text, 8).is_empty());
        let secrets = BTreeMap::from([("TOKEN".to_owned(), "a\"b".to_owned())]);
        assert_eq!(filled(&text, 7, &secrets), "Bearer a\"b");
        let json = serde_json::json!({ "key": mark }).to_string();
        assert_eq!(marked(&json, 7), ["TOKEN"]);
        assert_eq!(filled(&json, 7, &secrets), "{\"key\":\"a\\\"b\"}");
        assert_eq!(filled(&text, 8, &secrets), text);
    }
}
