//! A pipeline in this process: no server, no socket.

use super::{Failure, Progress, Target};
use crate::workload::{Ask, Prompt};
use futures::future::BoxFuture;
use stageline_door::{AnswerEvent, Input, Intake, Request};
use std::sync::Arc;

/// A pipeline's intake.
pub struct EmbeddedTarget {
    intake: Arc<dyn Intake>,
}

impl EmbeddedTarget {
    /// Of this intake.
    pub fn new(intake: Arc<dyn Intake>) -> Self {
        Self { intake }
    }

    async fn ask(&self, ask: &Ask, progress: &mut Progress) -> Result<(), Failure> {
        let input = match &ask.prompt {
            Prompt::Text(text) => Input::Text(text.clone()),
            Prompt::Tokens(ids) => Input::Tokens(ids.clone()),
        };
        let mut request = Request::new(format!("load-{}", ask.index), input);
        request.deadline = ask.deadline;
        if self.intake.task().generates() {
            request.max_tokens = Some(ask.max_tokens);
            request.sampling.temperature = Some(ask.temperature);
            request.sampling.seed = Some(ask.seed);
        }
        let mut answer = self.intake.submit(request).await?;
        progress.prompt(answer.prompt_tokens);
        while let Some(event) = answer.events.recv().await {
            match event {
                AnswerEvent::Token { .. } => progress.token(),
                AnswerEvent::Vector(_) | AnswerEvent::Tensors(_) => {}
                AnswerEvent::Finished { .. } => return Ok(()),
                AnswerEvent::Failed(fault) => return Err(fault.into()),
            }
        }
        Err(Failure::broken_off("the answer ended without saying how: the pipeline has stopped"))
    }
}

impl Target for EmbeddedTarget {
    fn send<'a>(&'a self, ask: &'a Ask, progress: &'a mut Progress) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.ask(ask, progress))
    }
}
