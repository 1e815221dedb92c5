//! Microbatches on their way to the device and back.

use super::Pump;
use bytes::{Bytes, BytesMut};
use stageline_base::{Fault, HostTensor};
use stageline_core::machine::Event;
use stageline_core::message::Segment;
use stageline_core::{BatchId, Microbatch, Output};
use stageline_engine::Ran;
use std::ops::Range;

impl Pump {
    pub(super) fn hand_over(&mut self, batch: Microbatch) {
        self.on_device.insert(batch.id, batch.rows() as u64);
        let inputs: Option<Vec<HostTensor>> = batch
            .members
            .iter()
            .map(|m| Some(self.parked.get(&m.ticket)?.0.slice_rows(m.ticket_row as usize, m.rows as usize)))
            .collect();
        let now = self.now();
        for (_, arrived) in batch.members.iter().filter_map(|member| self.parked.get(&member.ticket)) {
            self.observe(|stage| stage.stage_queue_seconds.observe(now.since(*arrived).as_secs_f64()));
        }
        let handed = match inputs {
            Some(inputs) => self.device.run(batch, inputs),
            None => Err(Fault::internal("a microbatch names a payload that is not parked")),
        };
        if let Err(fault) = handed {
            self.failed = Some(fault);
        }
    }

    pub(super) fn ran(&mut self, ran: Ran) {
        let rows = self.on_device.remove(&ran.batch).unwrap_or(0);
        if let (Some(stage), Ok(_)) = (self.metrics.stage(self.me.stage), &ran.outcome) {
            stage.batch_rows.observe(rows as f64);
            stage.stage_compute_seconds.observe(ran.took.as_secs_f64());
        }
        let outcome = match ran.outcome {
            Ok(Output::Activations(rows)) => {
                self.output = Some((ran.batch, rows));
                Ok(Vec::new())
            }
            Ok(Output::Emissions(emissions)) => Ok(emissions),
            Err(fault) => {
                tracing::warn!(stage = self.me.stage, batch = ran.batch.0, %fault, "a microbatch failed");
                Err(fault)
            }
        };
        self.stage_event(Event::Ran { batch: ran.batch, outcome });
    }

    /// The rows of `ranges` of the batch's output: the output itself where they are all of it.
    pub(super) fn cut(&mut self, batch: BatchId, segments: &[Segment], ranges: &[Range<u32>]) -> Option<HostTensor> {
        let (_, output) = self.output.take().filter(|(id, _)| *id == batch)?;
        let rows: usize = segments.iter().map(|segment| segment.rows as usize).sum();
        let width = self.hidden * 4;
        let whole = output.len() == rows * width;
        let bytes = if whole {
            output.freeze()
        } else {
            let mut part = BytesMut::with_capacity(rows * width + rows * 64 + 4096);
            for range in ranges {
                part.extend_from_slice(&output[range.start as usize * width..range.end as usize * width]);
            }
            self.output = Some((batch, output));
            Bytes::from(part)
        };
        HostTensor::activations(rows, self.hidden, bytes)
    }
}
