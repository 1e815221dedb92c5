//! What a door answered.

use crate::patience::soon;
use bytes::Bytes;
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// See the module.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// The whole answer to `request`.
    pub async fn of(request: RequestBuilder) -> Self {
        let answer = soon("an answer", request.send()).await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Self { status, headers, body: soon("the whole answer", answer.bytes()).await.unwrap() }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The id of the run that it is about.
    pub fn run(&self) -> &str {
        self.header("x-stageline-run").unwrap_or_else(|| panic!("{self:?} is about no run"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body, which must be JSON and say so.
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The class, the message and the node of the failure in the body.
    pub fn failure(&self) -> (Value, String, String) {
        let error = self.json()["error"].clone();
        let text = |field: &str| error[field].as_str().unwrap_or_else(|| panic!("no {field} in {self:?}")).to_owned();
        (error["class"].clone(), text("message"), text("node"))
    }
}
