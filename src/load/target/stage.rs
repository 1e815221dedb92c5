//! `Run` on one stage: its layers alone, without the pipeline around them.

use super::grpc::{Channels, failure, within};
use super::{Failure, Progress, Target};
use crate::workload::{Ask, Prompt};
use bytes::{BufMut, BytesMut};
use futures::future::BoxFuture;
use stageline_base::prng::Prng;
use stageline_base::{Border, Element, Fault, TensorSpec};
use stageline_proto::inference as pb;
use tonic::Code;

/// One stage's `Run`.
pub struct StageTarget {
    channels: Channels,
    /// What crosses in front of it.
    takes: Border,
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
        let Some(here) = here.first() else {
            return Err(Fault::invalid(format!("{url} serves no stage yet: wait until it is ready")));
        };
        let takes = Border::parse(&here.takes).filter(Border::is_by_rows);
        let takes = takes.ok_or_else(|| {
            let takes = here.takes.join("; ");
            Fault::invalid(format!("{url} takes {takes}: rows of random numbers are no load for that"))
        })?;
        Ok(Self { channels, takes })
    }

    /// As many rows as the prompt has tokens: its ids, or random numbers.
    fn rows(&self, ask: &Ask) -> Result<Vec<pb::Tensor>, Failure> {
        let Prompt::Tokens(ids) = &ask.prompt else {
            return Err(Failure::new("invalid_request", "a stage takes rows, not text: leave the file of prompts out"));
        };
        let mut prng = Prng::new(ask.seed);
        let tensor = |spec: &TensorSpec| {
            let (row, _) = spec.row().unwrap_or_default();
            let shape = row.with_rows(ids.len());
            let count = shape.elements().unwrap_or(0);
            let mut data = BytesMut::with_capacity(count * spec.element.bytes());
            let mut number = || 2.0 * prng.unit() as f32 - 1.0;
            match spec.element {
                Element::U32 => ids.iter().for_each(|id| data.put_u32_le(*id)),
                Element::F32 => (0..count).for_each(|_| data.put_f32_le(number())),
                // The upper half of a number's bits is the number, less exactly.
                Element::Bf16 => (0..count).for_each(|_| data.put_u16_le((number().to_bits() >> 16) as u16)),
                _ => data.resize(count * spec.element.bytes(), 0),
            }
            let (element, name) = (spec.element.number(), spec.name.to_string());
            let shape = shape.iter().map(|extent| *extent as u64).collect();
            pb::Tensor { element, shape, name, data: data.freeze(), ..Default::default() }
        };
        Ok(self.takes.tensors().iter().map(tensor).collect())
    }

    async fn ask(&self, ask: &Ask, progress: &mut Progress) -> Result<(), Failure> {
        let inputs = self.rows(ask)?;
        let rows = inputs.first().and_then(|input| input.shape.first()).map_or(0, |rows| *rows as u32);
        let request = pb::RunRequest { inputs, top_logits: 0, stage: None };
        let answer = self.channels.client().run(within(request, ask)).await.map_err(|status| failure(&status))?;
        if answer.into_inner().outputs.is_empty() {
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
