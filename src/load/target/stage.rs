//! `Run` on one stage: its layers alone, without the pipeline around them.

use super::grpc::{Channels, failure, within};
use super::{Failure, Progress, Target};
use crate::workload::{Ask, Prompt};
use bytes::{BufMut, BytesMut};
use futures::future::BoxFuture;
use stageline_base::Fault;
use stageline_base::prng::Prng;
use stageline_proto::inference::{self as pb, tensor::Element};
use tonic::Code;

/// One stage's `Run`.
pub struct StageTarget {
    channels: Channels,
    /// Which stage it is; 0 takes token ids.
    stage: u32,
    /// Elements of a row.
    width: u32,
}

impl StageTarget {
    /// The stage at `url` (`grpc://host:port`). Rows of every stage but the first are random numbers.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be reached; `InvalidRequest` if it is no stage, or serves nothing yet.
    pub async fn connect(url: &str) -> Result<Self, Fault> {
        let channels = Channels::connect(url).await?;
        let status = channels.client().status(pb::StatusRequest {}).await;
        let status = status.map_err(|status| {
            let (code, message) = (status.code(), status.message());
            let advice = match code {
                Code::Unimplemented => {
                    "give --target the stage's admin address, where Run and Status are if it has one"
                }
                _ => "is it a stageline stage?",
            };
            Fault::invalid(format!("{url} does not answer Status ({code:?}: {message}): {advice}"))
        })?;
        let here = status.into_inner().here;
        let Some(&pb::LocalStage { stage, columns: width, .. }) = here.first() else {
            return Err(Fault::invalid(format!("{url} serves no stage yet: wait until it is ready")));
        };
        Ok(Self { channels, stage, width })
    }

    /// As many rows as the prompt has tokens.
    fn rows(&self, ask: &Ask) -> Result<pb::Tensor, Failure> {
        let Prompt::Tokens(ids) = &ask.prompt else {
            return Err(Failure::new("invalid_request", "a stage takes rows, not text: leave the file of prompts out"));
        };
        let rows = ids.len() as u32;
        let mut numbers = BytesMut::with_capacity(ids.len() * self.width as usize * 4);
        if self.stage == 0 {
            ids.iter().for_each(|id| numbers.put_u32_le(*id));
            let element = Element::U32.into();
            return Ok(pb::Tensor { element, rows, columns: 1, data: numbers.freeze() });
        }
        let mut prng = Prng::new(ask.seed);
        (0..ids.len() * self.width as usize).for_each(|_| numbers.put_f32_le(2.0 * prng.unit() as f32 - 1.0));
        Ok(pb::Tensor { element: Element::F32.into(), rows, columns: self.width, data: numbers.freeze() })
    }

    async fn ask(&self, ask: &Ask, progress: &mut Progress) -> Result<(), Failure> {
        let request = pb::RunRequest { input: Some(self.rows(ask)?), top_logits: 0, stage: None };
        let rows = request.input.as_ref().map_or(0, |input| input.rows);
        let answer = self.channels.client().run(within(request, ask)).await.map_err(|status| failure(&status))?;
        if answer.into_inner().output.is_none() {
            return Err(Failure::new("not_an_answer", "the stage answered without a tensor"));
        }
        progress.prompt(rows);
        Ok(())
    }
}

impl Target for StageTarget {
    fn send<'a>(&'a self, ask: &'a Ask, progress: &'a mut Progress) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.ask(ask, progress))
    }
}
