//! Microbatches on their way to the device and back.

use super::Pump;
use bytes::BytesMut;
use stageline_base::{Border, Fault, HostTensor, TensorSpec, Tensors};
use stageline_core::batch::trailer_room;
use stageline_core::machine::Event;
use stageline_core::{BatchId, Member, Microbatch, Opening, Output, Ticket};
use stageline_engine::Ran;
use std::ops::Range;
use tracing::{Level, Span, debug_span};

impl Pump {
    pub(super) fn hand_over(&mut self, batch: Microbatch) {
        let (members, rows) = (batch.members.len(), batch.rows());
        self.on_device.insert(batch.id, OnDevice { members, rows, _steps: self.steps(batch.id, rows) });
        let inputs = self.inputs(&batch.members);
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

    /// What the members bring. Rows that came one behind the other stay together: most often all of a batch's did.
    fn inputs(&self, members: &[Member]) -> Option<Vec<Tensors>> {
        let parked = |ticket: &Ticket| Some(&self.parked.get(ticket)?.0);
        if !self.machine.setup().takes.is_by_rows() {
            return members.iter().map(|member| parked(&member.ticket).cloned()).collect();
        }
        let follows =
            |one: &Member, next: &Member| one.ticket == next.ticket && one.ticket_row + one.rows == next.ticket_row;
        let piece = |members: &[Member]| {
            let first = members.first()?;
            let rows = members.iter().map(|member| member.rows as usize).sum();
            Some(parked(&first.ticket)?.slice_rows(first.ticket_row as usize, rows))
        };
        members.chunk_by(follows).map(piece).collect()
    }

    /// A span for each sequence of a microbatch that goes to the device: none where nobody records them.
    fn steps(&self, batch: BatchId, rows: usize) -> Vec<Span> {
        if !tracing::enabled!(Level::DEBUG) {
            return Vec::new();
        }
        let (stage, batch_id) = (self.me.stage, batch.0);
        let step = |Opening { call_id, trace, sequence, attempt, .. }: &Opening| debug_span!("step", stage, batch = batch_id, rows, call_id, traceparent = %trace, %sequence, attempt);
        self.machine.openings_of(batch).into_iter().map(step).collect()
    }

    pub(super) fn ran(&mut self, ran: Ran) {
        let OnDevice { members, rows, .. } = self.on_device.remove(&ran.batch).unwrap_or_default();
        if let (Some(stage), Ok(_)) = (self.metrics.stage(self.me.stage), &ran.outcome) {
            stage.batch_rows.observe(rows as f64);
            stage.stage_compute_seconds.observe(ran.took.as_secs_f64());
        }
        let gives = &self.machine.setup().gives;
        let outcome = match ran.outcome {
            Ok(Output::Rows(tensors)) if are_rows(gives, &tensors, rows) => {
                self.output = Some((ran.batch, Gave::Rows(tensors)));
                Ok(Vec::new())
            }
            Ok(Output::Sets(sets)) if !gives.is_by_rows() && sets.len() == members => {
                self.output = Some((ran.batch, Gave::Sets(sets)));
                Ok(Vec::new())
            }
            Ok(Output::Emissions(emissions)) => Ok(emissions),
            // A frame of it could not be made once it is numbered: as if the batch had failed.
            Ok(_) => Err(Fault::device(format!("the stage gave something else than {gives}"))),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = &outcome {
            let (stage, batch) = (self.me.stage, ran.batch.0);
            tracing::warn!(stage, batch, %fault, "a microbatch failed");
            for Opening { call_id, trace, sequence, attempt, .. } in self.machine.openings_of(ran.batch) {
                tracing::debug!(stage, batch, call_id, traceparent = %trace, %sequence, attempt, "it had rows of this sequence");
            }
        }
        self.stage_event(Event::Ran { batch: ran.batch, outcome });
    }

    /// What the batch gave for these members: the output itself where they are all of it.
    pub(super) fn cut(&mut self, batch: BatchId, members: &[(usize, Range<u32>)]) -> Option<Tensors> {
        let (_, mut gave) = self.output.take().filter(|(id, _)| *id == batch)?;
        let rows = members.iter().map(|(_, range)| range.len()).sum();
        let cut = match &mut gave {
            Gave::Sets(sets) => sets.get(members.first()?.0).cloned(),
            Gave::Rows(tensors) => {
                let specs = self.machine.setup().gives.tensors().iter();
                specs
                    .zip(tensors)
                    .map(|(spec, all)| Some((spec.name.clone(), cut_rows(spec, all, members, rows)?)))
                    .collect()
            }
        };
        self.output = Some((batch, gave));
        cut
    }
}

/// A microbatch that the device has.
#[derive(Default)]
pub(super) struct OnDevice {
    members: usize,
    rows: usize,
    /// Each sequence's step; dropped, it is over.
    _steps: Vec<Span>,
}

/// What a batch gave for the next stage.
pub(super) enum Gave {
    /// Each tensor, with the rows of all members.
    Rows(Vec<BytesMut>),
    /// The tensors of each member.
    Sets(Vec<Tensors>),
}

/// Whether these are `rows` rows of what crosses `gives`.
fn are_rows(gives: &Border, tensors: &[BytesMut], rows: usize) -> bool {
    let fits = |(spec, all): (&TensorSpec, &BytesMut)| spec.row().is_some_and(|(_, width)| all.len() == rows * width);
    gives.tensors().len() == tensors.len() && gives.tensors().iter().zip(tensors).all(fits)
}

/// The rows of `members` of a tensor, taken out of `all` where they are all of it.
fn cut_rows(spec: &TensorSpec, all: &mut BytesMut, members: &[(usize, Range<u32>)], rows: usize) -> Option<HostTensor> {
    let (row, width) = spec.row()?;
    let bytes = if all.len() == rows * width {
        std::mem::take(all)
    } else {
        let mut part = BytesMut::with_capacity(rows * width + trailer_room(members.len()));
        for (_, range) in members {
            part.extend_from_slice(all.get(range.start as usize * width..range.end as usize * width)?);
        }
        part
    };
    HostTensor::new(spec.element, row.with_rows(rows), bytes.freeze())
}
