//! Activations that cross between stages as bf16.

use crate::executor::{Executor, Ready};
use bytes::{BufMut, BytesMut};
use half::bf16;
use stageline_base::{Element, Fault, HostTensor, Tensors};
use stageline_core::batch::trailer_room;
use stageline_core::{Microbatch, Output};
use std::collections::VecDeque;

/// An executor whose f32 tensors arrive as bf16 from another stage, leave so for another, or both. A number that is rounded is
/// rounded to the nearest, the even one of two; each by itself, so that a row still depends on nothing but the row.
pub struct Narrowing {
    executor: Box<dyn Executor>,
    takes: bool,
    gives: bool,
    /// The inputs of batches that were started and not run yet, as the executor takes them.
    started: VecDeque<Vec<Tensors>>,
}

impl Narrowing {
    /// Around `executor`: whether what it takes comes as bf16, and whether what it gives leaves so.
    pub fn of(executor: Box<dyn Executor>, (takes, gives): (bool, bool)) -> Self {
        Self { executor, takes, gives, started: VecDeque::new() }
    }

    fn widened(&self, inputs: &[Tensors]) -> Result<Vec<Tensors>, Fault> {
        if !self.takes {
            return Ok(inputs.to_vec());
        }
        inputs.iter().map(|set| changed(set, Element::Bf16, widened)).collect()
    }
}

impl Executor for Narrowing {
    fn warm_up(&mut self) -> Result<Ready, Fault> {
        self.executor.warm_up()
    }

    fn settle(&mut self, ready: Ready) -> Result<Ready, Fault> {
        self.executor.settle(ready)
    }

    fn start(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<(), Fault> {
        let inputs = self.widened(inputs)?;
        self.executor.start(batch, &inputs)?;
        self.started.push_back(inputs);
        Ok(())
    }

    fn is_done(&mut self) -> bool {
        self.executor.is_done()
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault> {
        let inputs = match self.started.pop_front() {
            Some(inputs) => inputs,
            None => self.widened(inputs)?,
        };
        let output = self.executor.run(batch, &inputs)?;
        Ok(match output {
            Output::Rows(tensors) if self.gives => {
                Output::Rows(tensors.iter().map(|numbers| narrowed(numbers, batch.members.len())).collect())
            }
            Output::Sets(sets) if self.gives => {
                let narrow = |numbers: &[u8]| narrowed(numbers, 0);
                Output::Sets(sets.iter().map(|set| changed(set, Element::F32, narrow)).collect::<Result<_, _>>()?)
            }
            output => output,
        })
    }

    fn is_lost(&self) -> bool {
        self.executor.is_lost()
    }
}

/// The set, its tensors `of` that type changed by `change` into the other one.
fn changed(set: &Tensors, of: Element, change: impl Fn(&[u8]) -> BytesMut) -> Result<Tensors, Fault> {
    let to = if of == Element::F32 { Element::Bf16 } else { Element::F32 };
    let mut tensors = Tensors::with_capacity(set.len());
    for named in set.iter() {
        let tensor = match named.tensor.element() == of {
            true => HostTensor::new(to, named.tensor.shape(), change(named.tensor.bytes()).freeze()),
            false => Some(named.tensor.clone()),
        };
        let tensor = tensor.ok_or_else(|| Fault::internal(format!("{} changed its size", named.name)))?;
        tensors.push(named.name.clone(), tensor);
    }
    Ok(tensors)
}

/// f32 as bf16, with room for a hop's trailer.
fn narrowed(numbers: &[u8], members: usize) -> BytesMut {
    let mut narrow = BytesMut::with_capacity(numbers.len() / 2 + trailer_room(members));
    for word in numbers.as_chunks().0 {
        narrow.put_u16_le(bf16::from_f32(f32::from_le_bytes(*word)).to_bits());
    }
    narrow
}

/// bf16 as f32: the same numbers.
fn widened(numbers: &[u8]) -> BytesMut {
    let mut wide = BytesMut::with_capacity(numbers.len() * 2);
    for half in numbers.as_chunks().0 {
        wide.put_f32_le(bf16::from_bits(u16::from_le_bytes(*half)).to_f32());
    }
    wide
}

#[cfg(test)]
mod tests {
    use super::*;
    use stageline_core::BatchId;

    /// Gives its inputs back, and says that it ran in order.
    struct Echo(u64);

    impl Executor for Echo {
        fn warm_up(&mut self) -> Result<Ready, Fault> {
            Ok(Ready { kv_blocks: 0, refused_recordings: 0 })
        }

        fn run(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault> {
            self.0 += 1;
            assert_eq!(batch.id, BatchId(self.0));
            assert!(inputs.iter().all(|set| set[0].tensor.element() == Element::F32));
            Ok(Output::Rows(inputs.iter().map(|set| BytesMut::from(&set[0].tensor.bytes()[..])).collect()))
        }
    }

    fn batch(id: u64) -> Microbatch {
        Microbatch { id: BatchId(id), members: Vec::new() }
    }

    #[test]
    fn what_was_bf16_stays_as_it_is_and_what_was_not_is_rounded_to_it() {
        let numbers = [1.0f32, -2.5, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 3e38, f32::INFINITY, 0.0];
        let nearest = [1.0f32, -2.5, 1.0, 1.0 + 4.0 / 256.0, 3e38, f32::INFINITY, 0.0].map(bf16::from_f32);
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let want: Vec<u8> = nearest.iter().flat_map(|number| number.to_bits().to_le_bytes()).collect();
        assert_eq!(&narrowed(&bytes, 0)[..], want);

        let mut stage = Narrowing::of(Box::new(Echo(0)), (true, true));
        let input = |from: usize| {
            let part = bytes::Bytes::from(want[from..].to_vec());
            Tensors::one("hidden", HostTensor::new(Element::Bf16, [part.len() / 2, 1], part).unwrap())
        };
        for (id, from) in [(1, 0), (2, 2)] {
            stage.start(&batch(id), &[input(from)]).unwrap();
        }
        for (id, from) in [(1, 0), (2, 2), (3, 4)] {
            // Batches that were started run on what they were started with.
            let given = if id < 3 { input(6) } else { input(from) };
            let Output::Rows(rows) = stage.run(&batch(id), &[given]).unwrap() else { panic!() };
            assert_eq!(&rows[0][..], &want[from..]);
        }
    }
}
