//! A request as it is stored: what its client sent, and what was decided when it was accepted.

use super::telling::Ended;
use crate::Request;
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use stageline_base::{Fault, FaultClass, Task, Trace};
use stageline_core::durable::Wall;
use stageline_proto::durable as pb;
pub use stageline_proto::durable::durable_request::Api;
use std::time::Duration;

/// A job of the work queue: a request that nobody waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What makes it the same as another one.
    pub key: Option<String>,
    /// Its id.
    pub call_id: Option<String>,
    /// Whom to tell of its end.
    pub callback: Option<String>,
    /// As if it had come by this API.
    pub api: Api,
    /// Of its body.
    pub content_type: String,
    /// What is asked.
    pub body: Bytes,
}

/// What the APIs know of bodies and answers.
pub trait Forms: Send + Sync {
    /// Reads what a client sent by an API to a model that does a task: the Content-Type of its body, if it had one, and the body.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read(&self, api: Api, content_type: &str, body: &[u8], task: Task) -> Result<Request, Fault>;

    /// Reads a job of the work queue.
    ///
    /// # Errors
    /// What is wrong with it.
    fn job(&self, job: &Bytes) -> Result<Job, Fault>;

    /// The status, the Content-Type and the body of the answer to a request of an API.
    fn write(&self, api: Api, ended: Ended) -> (u16, &'static str, String);
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored(pb::DurableRequest);

/// SHA-256 of what a client sent.
pub(super) fn digest(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

impl Stored {
    pub(super) fn new(message: pb::DurableRequest) -> Self {
        Self(message)
    }

    /// A request that asks for nothing.
    #[cfg(test)]
    pub(super) fn empty() -> Self {
        Self(pb::DurableRequest::default())
    }

    /// From what a log's first entry holds.
    ///
    /// # Errors
    /// `Internal` if it is nothing of the kind.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, Fault> {
        let unreadable = |error| Fault::internal(format!("a stored request cannot be read: {error}"));
        pb::DurableRequest::decode(bytes.clone()).map(Self).map_err(unreadable)
    }

    pub(super) fn encode(&self) -> Bytes {
        self.0.encode_to_vec().into()
    }

    pub(crate) fn call_id(&self) -> &str {
        &self.0.call_id
    }

    pub(super) fn api(&self) -> Api {
        self.0.api()
    }

    /// Whom its end is told.
    pub(super) fn callback(&self) -> &str {
        &self.0.callback_url
    }

    /// When it was accepted.
    pub(crate) fn accepted(&self) -> Wall {
        Wall(self.0.accepted_unix_ms)
    }

    /// The digest of the manifest that it was accepted for.
    pub(super) fn manifest(&self) -> &str {
        &self.0.manifest
    }

    /// Whose it is.
    pub(crate) fn principal(&self) -> &str {
        &self.0.principal
    }

    /// Whether it is a job that could not be read.
    pub(super) fn is_no_request(&self) -> bool {
        self.0.api() == Api::UnknownApi
    }

    /// The same, as if it were accepted `now`.
    pub(super) fn accepted_anew(&self, now: Wall) -> Self {
        Self(pb::DurableRequest { accepted_unix_ms: now.0, ..self.0.clone() })
    }

    /// What no other request has, and this one has also when it is tried anew: its seed, among all else that was decided once.
    pub(super) fn identity(&self) -> [u8; 32] {
        digest(&self.accepted_anew(Wall(0)).encode())
    }

    /// Whether it asks for the same, and for the same principal.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.0.api, &self.0.digest, &self.0.principal) == (other.0.api, &other.0.digest, &other.0.principal)
    }

    /// # Errors
    /// `Misdirected` if another manifest than `served` is to answer it: its tokens would be another model's.
    pub(super) fn is_for(&self, served: &str) -> Result<(), Fault> {
        if self.0.manifest == served {
            return Ok(());
        }
        let words = format!(
            "the request was accepted for manifest {}, and this door serves {served}: ask a door of the former",
            self.0.manifest
        );
        Err(Fault::new(FaultClass::Misdirected, words))
    }

    /// The request for a model that does `task`, as its client meant it.
    ///
    /// # Errors
    /// What refuses it.
    pub(super) fn request(&self, forms: &dyn Forms, task: Task) -> Result<Request, Fault> {
        let request = forms.read(self.0.api(), &self.0.content_type, &self.0.body, task)?;
        let trace = Trace::parse(self.0.traceparent.as_bytes());
        Ok(Request { call_id: self.0.call_id.clone(), trace, ..request })
    }

    /// The same for whoever is to run it: with the seed that it was accepted with, and as long as it has left.
    ///
    /// # Errors
    /// As [`Stored::request`].
    pub(super) fn to_run(&self, forms: &dyn Forms, task: Task, left: Duration) -> Result<Request, Fault> {
        let mut request = self.request(forms, task)?;
        request.sampling.seed.get_or_insert(self.0.seed);
        Ok(Request { deadline: Some(left), patient: true, ..request })
    }
}
