//! Activations that cross between stages as bf16.

use crate::executor::{Executor, Ready};
use bytes::{BufMut, BytesMut};
use half::bf16;
use stageline_base::{Border, Element, Fault, HostTensor, TensorSpec, Tensors};
use stageline_core::batch::trailer_room;
use stageline_core::{Microbatch, Output};
use std::collections::VecDeque;

/// An executor whose f32 tensors arrive as bf16 from another stage, leave so for another, or both. A number that is rounded is
/// rounded to the nearest, the even one of two; each by itself, so that a row still depends on nothing but the row.
pub struct Narrowing {
    executor: Box<dyn Executor>,
    takes: Option<Border>,
    gives: Option<Border>,
    /// The inputs of batches that were started and not run yet, as the executor takes them.
    started: VecDeque<Vec<Tensors>>,
}

impl Narrowing {
    /// Around `executor`, with what crosses in front of it and behind it as the executor knows it, where that comes from and goes to
    /// other stages.
    pub fn of(executor: Box<dyn Executor>, takes: Option<Border>, gives: Option<Border>) -> Self {
        Self { executor, takes, gives, started: VecDeque::new() }
    }

    fn widened(&self, inputs: &[Tensors]) -> Result<Vec<Tensors>, Fault> {
        let Some(takes) = &self.takes else { return Ok(inputs.to_vec()) };
        inputs.iter().map(|set| changed(takes, set, Element::F32, widened)).collect()
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
        let Some(gives) = &self.gives else { return Ok(output) };
        Ok(match output {
            Output::Rows(tensors) => {
                let members = batch.members.len();
                let leave = |(spec, numbers): (&TensorSpec, BytesMut)| match spec.element {
                    Element::F32 => narrowed(&numbers, members),
                    _ => numbers,
                };
                Output::Rows(gives.tensors().iter().zip(tensors).map(leave).collect())
            }
            Output::Sets(sets) => {
                let narrow = |numbers: &[u8]| narrowed(numbers, 0);
                let leave = |set: &Tensors| changed(gives, set, Element::Bf16, narrow);
                Output::Sets(sets.iter().map(leave).collect::<Result<_, _>>()?)
            }
            Output::Emissions(emissions) => Output::Emissions(emissions),
        })
    }

    fn is_lost(&self) -> bool {
        self.executor.is_lost()
    }
}

/// The set, of which what `border` says is f32 is changed by `change` into elements of type `to`.
fn changed(border: &Border, set: &Tensors, to: Element, change: impl Fn(&[u8]) -> BytesMut) -> Result<Tensors, Fault> {
    let mut tensors = Tensors::with_capacity(set.len());
    for (spec, named) in border.tensors().iter().zip(set.iter()) {
        let tensor = match spec.element {
            Element::F32 => HostTensor::new(to, named.tensor.shape(), change(named.tensor.bytes()).freeze()),
            _ => Some(named.tensor.clone()),
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

    /// Gives back what it is given, the numbers as they are and the marks beside them; and says that it ran in order.
    struct Echo(u64);

    impl Executor for Echo {
        fn warm_up(&mut self) -> Result<Ready, Fault> {
            Ok(Ready { kv_blocks: 0, refused_recordings: 0 })
        }

        fn run(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault> {
            self.0 += 1;
            assert_eq!(batch.id, BatchId(self.0));
            assert!(inputs.iter().all(|set| border().admits(set[0].tensor.rows() as u64, set)));
            let bytes = |at: usize| BytesMut::from(&inputs[0][at].tensor.bytes()[..]);
            Ok(if self.0 == 3 { Output::Sets(inputs.to_vec()) } else { Output::Rows(vec![bytes(0), bytes(1)]) })
        }
    }

    /// Numbers, and marks that are bf16 by themselves.
    fn border() -> Border {
        Border::parse(&["hidden f32 [rows, 1]", "marks bf16 [rows]"]).unwrap()
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

        let mut stage = Narrowing::of(Box::new(Echo(0)), Some(border()), Some(border()));
        let input = |from: usize| -> Tensors {
            let part = bytes::Bytes::from(want[from..].to_vec());
            let rows = part.len() / 2;
            let hidden = HostTensor::new(Element::Bf16, [rows, 1], part).unwrap();
            let marks = HostTensor::new(Element::Bf16, [rows], vec![0x40; rows * 2].into()).unwrap();
            [("hidden".into(), hidden), ("marks".into(), marks)].into_iter().collect()
        };
        for (id, from) in [(1, 0), (2, 2)] {
            stage.start(&batch(id), &[input(from)]).unwrap();
        }
        for (id, from) in [(1, 0), (2, 2)] {
            // Batches that were started run on what they were started with.
            let Output::Rows(rows) = stage.run(&batch(id), &[input(6)]).unwrap() else { panic!() };
            assert_eq!((&rows[0][..], &rows[1][..]), (&want[from..], &vec![0x40; want.len() - from][..]));
        }
        let Output::Sets(sets) = stage.run(&batch(3), &[input(4)]).unwrap() else { panic!() };
        assert_eq!(sets, [input(4)]);
    }
}
