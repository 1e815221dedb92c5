//! A model whose requests are tensors that stay together, of different sizes, and whose answers are such tensors too.

use super::model::{Model, POISON};
use super::processes::Shape;
use stageline_base::prng::Prng;
use stageline_base::{
    Border, Course, Element, Fault, Gives, HostTensor, StageIndex, Takes, Task, TensorSpec, Tensors, TokenId,
};
use stageline_core::{Emission, Input, Microbatch, Output};
use stageline_engine::{Executor, Ready};

/// Most numbers of a picture: those of the longest prompt that a client has, in up to three lines.
const MOST: usize = 42;

/// Every stage replaces each number by a hash of it, of the one before and of its own place.
pub struct Pictures;

impl Model for Pictures {
    fn vocab(&self) -> u32 {
        97
    }

    fn most_stages(&self) -> StageIndex {
        3
    }

    fn task(&self, _: &mut Prng) -> Task {
        Task { takes: Takes::Tensors, gives: Gives::Tensors, course: Course::Once, cached: false }
    }

    fn borders(&self, stages: StageIndex) -> Vec<Border> {
        let border = |lines: [String; 2]| Border::parse(&lines).expect("two tensors");
        let front = border([format!("numbers i64 [rows, ..{MOST}]"), "count u8 []".into()]);
        let between = (1..stages).map(|_| border([format!("mixed i64 [..{MOST}, 1]"), "last u32 [2]".into()]));
        let answer = border([format!("codes i64 [..{MOST}]"), "label i32 []".into()]);
        std::iter::once(front).chain(between).chain([answer]).collect()
    }

    fn input(&self, prompt: &[TokenId]) -> Input {
        Input::Tensors(set(&self.borders(1)[0], &numbers(prompt), lines(prompt)))
    }

    fn executor(&self, stage: StageIndex, stages: StageIndex, _: Shape) -> Box<dyn Executor> {
        let gives = self.borders(stages).remove(usize::from(stage) + 1);
        Box::new(Stage { stage, last: stage + 1 == stages, gives })
    }

    fn check_tokens(&self, _: &[TokenId], tokens: &[TokenId], _: StageIndex) -> Result<(), String> {
        if tokens.is_empty() { Ok(()) } else { Err("tokens of a picture".into()) }
    }

    fn is_answer(&self, prompt: &[TokenId], answer: &Tensors, stages: StageIndex) -> bool {
        let mixed = (0..stages).fold(numbers(prompt), |numbers, stage| mix(&numbers, stage));
        *answer == set(&self.borders(stages)[usize::from(stages)], &mixed, 1)
    }
}

struct Stage {
    stage: StageIndex,
    last: bool,
    gives: Border,
}

impl Executor for Stage {
    fn warm_up(&mut self) -> Result<Ready, Fault> {
        Ok(Ready { kv_blocks: 0, refused_recordings: 0 })
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault> {
        assert_eq!(batch.members.len(), inputs.len());
        let numbers = |input: &Tensors| -> Vec<u64> {
            input[0].tensor.bytes().as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
        };
        if self.stage == 0 && inputs.iter().any(|input| numbers(input).contains(&POISON.into())) {
            return Err(Fault::device("the device fails at this picture"));
        }
        let mut sets = inputs.iter().map(|input| set(&self.gives, &mix(&numbers(input), self.stage), 1));
        Ok(match self.last {
            true => Output::Emissions(sets.map(|set| Some(Emission::Tensors(set))).collect()),
            false => Output::Sets(sets.by_ref().collect()),
        })
    }
}

/// How many lines the picture of a prompt has: its rows.
fn lines(prompt: &[TokenId]) -> usize {
    1 + prompt.len() % 3
}

/// Its numbers, in whole lines.
fn numbers(prompt: &[TokenId]) -> Vec<u64> {
    let mut numbers: Vec<u64> = prompt.iter().map(|id| u64::from(*id)).collect();
    numbers.resize(numbers.len().next_multiple_of(lines(prompt)), 0);
    numbers
}

fn mix(numbers: &[u64], stage: StageIndex) -> Vec<u64> {
    let hash = |before: &mut u64, number: &u64| {
        *before = (before.rotate_left(23) ^ number ^ u64::from(stage) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some(*before)
    };
    numbers.iter().scan(1, hash).collect()
}

/// The numbers as the first tensor of a border of two, in so many lines where it has lines, and something of them as the other.
fn set(border: &Border, numbers: &[u64], lines: usize) -> Tensors {
    let [first, second] = border.tensors() else { panic!("two tensors") };
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let tensor = match first.dims.len() {
        1 => HostTensor::new(first.element, [numbers.len()], bytes.into()),
        _ if &*first.name == "numbers" => HostTensor::new(first.element, [lines, numbers.len() / lines], bytes.into()),
        _ => HostTensor::new(first.element, [numbers.len(), 1], bytes.into()),
    };
    let last = numbers.last().copied().unwrap_or_default().to_le_bytes().to_vec();
    let other = match second.element {
        Element::U8 => HostTensor::new(Element::U8, [], vec![numbers.len() as u8].into()),
        Element::U32 => HostTensor::new(Element::U32, [2], last.into()),
        element => HostTensor::new(element, [], last[..4].to_vec().into()),
    };
    let named = |(spec, tensor): (&TensorSpec, Option<HostTensor>)| -> (stageline_base::TensorName, HostTensor) {
        (spec.name.clone(), tensor.expect("bytes of that shape"))
    };
    [(first, tensor), (second, other)].into_iter().map(named).collect()
}
