//! The gRPC client service of a door: `Generate`, or `Embed` at an encoder.

use super::{Failure, Progress, Target, unreachable};
use crate::workload::{Ask, Prompt};
use futures::future::BoxFuture;
use stageline_base::{Fault, with_causes};
use stageline_proto::inference::inference_client::InferenceClient;
use stageline_proto::inference::{self as pb, embed_request, generate_event, generate_request};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// HTTP/2 connections that calls take in turn: one alone is one task that reads and writes for all.
const CONNECTIONS: usize = 4;

/// Connections to a gRPC port.
pub(crate) struct Channels {
    clients: Vec<InferenceClient<Channel>>,
    next: AtomicUsize,
}

impl Channels {
    /// Connects to `grpc://host:port`.
    pub async fn connect(url: &str) -> Result<Self, Fault> {
        let advice = "start it with `stageline up` or `stageline serve`, or give the address that it listens on";
        let address = url.replacen("grpc://", "http://", 1);
        let endpoint = Endpoint::from_shared(address).map_err(|error| unreachable(url, with_causes(&error), advice))?;
        let endpoint = endpoint.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true);
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let channel = endpoint.connect().await;
            let channel = channel.map_err(|error| unreachable(url, with_causes(&error), advice))?;
            clients.push(InferenceClient::new(channel));
        }
        Ok(Self { clients, next: AtomicUsize::new(0) })
    }

    /// A client, of the next connection.
    pub fn client(&self) -> InferenceClient<Channel> {
        self.clients[self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len()].clone()
    }
}

/// A door's gRPC client service.
pub struct GrpcTarget {
    channels: Channels,
    embeds: bool,
}

impl GrpcTarget {
    /// The door at `url` (`grpc://host:port`); `embeds`: the model encodes.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be reached, with what to do about it.
    pub async fn connect(url: &str, embeds: bool) -> Result<Self, Fault> {
        Ok(Self { channels: Channels::connect(url).await?, embeds })
    }

    async fn generate(&self, ask: &Ask, progress: &mut Progress) -> Result<(), Failure> {
        let input = match &ask.prompt {
            Prompt::Text(text) => generate_request::Input::Prompt(text.clone()),
            Prompt::Tokens(ids) => generate_request::Input::Tokens(pb::TokenIds { ids: ids.clone() }),
        };
        let request = pb::GenerateRequest {
            input: Some(input),
            max_tokens: Some(ask.max_tokens),
            temperature: Some(ask.temperature),
            seed: Some(ask.seed),
            ..Default::default()
        };
        let answer = self.channels.client().generate(within(request, ask)).await;
        let mut events = answer.map_err(|status| failure(&status))?.into_inner();
        while let Some(event) = events.message().await.map_err(|status| failure(&status))? {
            match event.event {
                Some(generate_event::Event::Started(started)) => progress.prompt(started.prompt_tokens),
                Some(generate_event::Event::Token(_)) => progress.token(),
                Some(generate_event::Event::Finished(_)) => return Ok(()),
                None => {}
            }
        }
        Err(Failure::broken_off("the stream ended without its last event"))
    }

    async fn embed(&self, ask: &Ask, progress: &mut Progress) -> Result<(), Failure> {
        let input = match &ask.prompt {
            Prompt::Text(text) => embed_request::Given::Input(text.clone()),
            Prompt::Tokens(ids) => embed_request::Given::Tokens(pb::TokenIds { ids: ids.clone() }),
        };
        let request = pb::EmbedRequest { given: Some(input), ..Default::default() };
        let answer = self.channels.client().embed(within(request, ask)).await;
        progress.prompt(answer.map_err(|status| failure(&status))?.into_inner().prompt_tokens);
        Ok(())
    }
}

impl Target for GrpcTarget {
    fn send<'a>(&'a self, ask: &'a Ask, progress: &'a mut Progress) -> BoxFuture<'a, Result<(), Failure>> {
        if self.embeds { Box::pin(self.embed(ask, progress)) } else { Box::pin(self.generate(ask, progress)) }
    }
}

/// The call, with its deadline.
pub(super) fn within<T>(message: T, ask: &Ask) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = ask.deadline {
        request.set_timeout(deadline);
    }
    request
}

/// A status by the names that faults have elsewhere.
pub(super) fn failure(status: &Status) -> Failure {
    let class = match status.code() {
        Code::InvalidArgument => "invalid_request",
        Code::ResourceExhausted => "overloaded",
        Code::FailedPrecondition => "misdirected",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::Cancelled => "cancelled",
        Code::Unavailable => "unavailable",
        Code::Internal => "internal",
        other => return Failure::new(format!("grpc_{}", other as i32), status.message()),
    };
    Failure::new(class, status.message())
}
