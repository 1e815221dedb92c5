//! What the layers must know of a batch beside its activations: where each row stands and what it sees.

use super::kv_cache::KvShape;
use candle_core::{Device, Result as CandleResult, Tensor};
use stageline_base::Fault;
use stageline_core::Member;
use stageline_ops::Span;
use std::ops::Range;

/// One run of a stage's layers.
#[derive(Debug, Default)]
pub struct Step {
    /// Position of each row.
    pub positions: Vec<u32>,
    /// Row of the KV cache that each row's key and value go to; `None` when encoding.
    pub slots: Option<Tensor>,
    /// Each member's rows and what they see.
    pub spans: Vec<Span>,
    /// The rows of each emitting member.
    pub emitting: Vec<Range<usize>>,
}

impl Step {
    /// A step of a decoder with a KV cache of `shape`, for sequences of at most `max_positions`.
    ///
    /// # Errors
    /// `Internal` if a member's rows lie outside its blocks or the model's positions, or a block outside the cache.
    pub fn decode(members: &[Member], shape: KvShape, max_positions: usize, device: &Device) -> Result<Self, Fault> {
        let mut slots = Vec::new();
        let mut seen = Vec::with_capacity(members.len());
        for member in members {
            let held = held_blocks(member, shape, max_positions)?;
            let (start, end) = (member.start as usize, member.start as usize + member.rows as usize);
            let size = shape.block_size as u32;
            let all: Vec<u32> = held.iter().flat_map(|b| b * size..(b + 1) * size).take(end).collect();
            slots.extend_from_slice(&all[start..]);
            seen.push(all);
        }
        Self::new(members, Some(slots), seen, device)
    }

    /// A step of an encoder: every member is a whole sequence of at most `max_positions`.
    ///
    /// # Errors
    /// `Internal` if a member is only a part of a sequence; `InvalidRequest` if it is too long.
    pub fn encode(members: &[Member], max_positions: usize, device: &Device) -> Result<Self, Fault> {
        let mut seen = Vec::with_capacity(members.len());
        let mut first = 0;
        for member in members {
            if member.start != 0 || !member.emit {
                let message = format!("sequence {} was cut, but an encoder needs all its rows", member.sequence);
                return Err(Fault::internal(message));
            }
            if member.rows as usize > max_positions {
                let message = format!("{} tokens are more than the model's {max_positions} positions", member.rows);
                return Err(Fault::invalid(message));
            }
            seen.push((first..first + member.rows).collect());
            first += member.rows;
        }
        Self::new(members, None, seen, device)
    }

    fn new(members: &[Member], slots: Option<Vec<u32>>, seen: Vec<Vec<u32>>, device: &Device) -> Result<Self, Fault> {
        let causal = slots.is_some();
        let on_device = |ids: Vec<u32>| -> CandleResult<Tensor> {
            let count = ids.len();
            Tensor::from_vec(ids, count, device)
        };
        let build = || -> CandleResult<Self> {
            let mut step = Self { positions: Vec::new(), slots: None, spans: Vec::new(), emitting: Vec::new() };
            for (member, seen) in members.iter().zip(seen) {
                let rows = step.positions.len()..step.positions.len() + member.rows as usize;
                step.positions.extend(member.start..member.start + member.rows);
                if member.emit {
                    step.emitting.push(rows.clone());
                }
                step.spans.push(Span { rows, slots: on_device(seen)?, causal });
            }
            step.slots = slots.map(on_device).transpose()?;
            Ok(step)
        };
        build().map_err(|e| Fault::device(format!("cannot lay a batch out: {e}")))
    }
}

/// The blocks that hold what a member's rows see, their own positions included.
///
/// # Errors
/// `Internal` if the rows lie outside the member's blocks or the model's positions, or a block outside the cache.
pub fn held_blocks(member: &Member, shape: KvShape, max_positions: usize) -> Result<&[u32], Fault> {
    let (start, end) = (member.start as usize, member.start as usize + member.rows as usize);
    let held = member.blocks.get(..end.div_ceil(shape.block_size));
    match held.filter(|held| end <= max_positions && held.iter().all(|b| (*b as usize) < shape.blocks)) {
        Some(held) => Ok(held),
        None => Err(Fault::internal(format!(
            "rows {start}..{end} of sequence {} do not fit its {} blocks of {} positions, {} blocks of cache or \
             {max_positions} positions",
            member.sequence,
            member.blocks.len(),
            shape.block_size,
            shape.blocks
        ))),
    }
}
