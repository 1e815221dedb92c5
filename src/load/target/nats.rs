//! The NATS door: a request on `stageline.v1.<pipeline>.ask`, its answer on the reply subject.

use super::body::{self, Form};
use super::{Failure, Progress, Target};
use crate::workload::Ask;
use async_nats::{Client, HeaderMap, Message, StatusCode};
use futures::StreamExt;
use futures::future::BoxFuture;
use stageline_base::Fault;
use stageline_transport::connect_client;
use stageline_wire::ask_subject;
use std::path::Path;

/// A pipeline's subject.
pub struct NatsTarget {
    client: Client,
    subject: String,
    form: Form,
}

impl NatsTarget {
    /// The door of `pipeline` behind the broker at `url`. `form`: whether tokens are read one by one, and whether the model
    /// encodes.
    ///
    /// # Errors
    /// `Unavailable` if the broker cannot be reached, with what to do about it.
    pub async fn connect(
        url: &str,
        pipeline: &str,
        credentials: Option<&Path>,
        form: (bool, bool),
    ) -> Result<Self, Fault> {
        let client = connect_client("stageline load", url, credentials, None).await?;
        let form = Form { stream: form.0, embeds: form.1 };
        Ok(Self { client, subject: ask_subject(pipeline), form })
    }

    async fn ask(&self, ask: &Ask, progress: &mut Progress) -> Result<(), Failure> {
        let inbox = self.client.new_inbox();
        let broker = |error: String| Failure::new("connect", error);
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(|error| broker(error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", "application/json");
        if self.form.stream {
            headers.insert("Accept", "text/event-stream");
        }
        let body = body::write(ask, self.form).into();
        let sent = self.client.publish_with_reply_and_headers(self.subject.clone(), inbox, headers, body).await;
        sent.map_err(|error| broker(error.to_string()))?;
        while let Some(reply) = replies.next().await {
            if self.take(&reply, progress)? {
                return Ok(());
            }
        }
        Err(Failure::broken_off("the connection to the broker ended before the answer"))
    }

    /// Takes in one reply; true at the last one.
    fn take(&self, reply: &Message, progress: &mut Progress) -> Result<bool, Failure> {
        if reply.status == Some(StatusCode::NO_RESPONDERS) {
            let nobody = format!("nobody answers on {}: is the pipeline's door up, and its name right?", self.subject);
            return Err(Failure::new("no_responders", nobody));
        }
        let header = |name: &str| reply.headers.as_ref().and_then(|headers| headers.get(name)).map(|v| v.as_str());
        let status: u16 = header("Stageline-Status").and_then(|status| status.parse().ok()).unwrap_or(200);
        if status != 200 {
            return Err(body::refusal(status, &reply.payload));
        }
        if self.form.stream {
            return body::event(header("Stageline-Event").unwrap_or_default(), &reply.payload, progress);
        }
        body::read(&reply.payload, progress).map(|()| true)
    }
}

impl Target for NatsTarget {
    fn send<'a>(&'a self, ask: &'a Ask, progress: &'a mut Progress) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.ask(ask, progress))
    }
}
