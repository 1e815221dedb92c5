//! What the units of a model cost on this device, measured.
//!
//! Each unit runs as a stage of its own, in turn with the others, so that its weights come from where they come from when it
//! is served, and not from a cache that they alone would fit. What a stage takes beside its units is known by running them
//! once more as one stage, and does not count.

use crate::Executor;
use crate::part::StagePart;
use stageline_base::{Fault, Tensors};
use stageline_core::Microbatch;
use stageline_model::{KvShape, LayerRange, ModelSpec};
use stageline_plan::estimate::DECODE_BATCH;
use stageline_plan::{Mix, RowCost, Sight, Unit, UnitCost};
use std::time::Duration;

/// How often each is run at least, and for how long all of them together. Means count: what else runs on the machine takes from
/// each in proportion to its time, which means keep, while medians spare what is short.
const ROUNDS: u32 = 5;
const LEAST: Duration = Duration::from_millis(500);
/// Weights that are loaded at once, or one unit's: more than caches hold.
const WINDOW_BYTES: u64 = 256 << 20;
/// Positions to which decode rows attend at least where what each costs is measured, if the model has so many.
const FAR: u32 = 512;
/// Positions of a KV block.
const BLOCK_SIZE: usize = 16;

/// What is to be measured, and for which requests.
#[derive(Clone, Copy)]
pub struct Measure<'a> {
    /// The model.
    pub spec: &'a ModelSpec,
    /// Its units.
    pub units: &'a [Unit],
    /// The requests: chunks are no longer than its prompts.
    pub mix: Mix,
    /// Most rows of a prompt's chunk.
    pub most_rows: u32,
    /// How late it is, from some time on.
    pub clock: &'a dyn Fn() -> Duration,
}

/// A batch to time.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// The first of the sequences, and how many there are.
    first: u32,
    members: u32,
    /// Position of the first row of each.
    start: u32,
    /// Rows of each.
    rows: u32,
    /// Whether each emits.
    emit: bool,
}

/// What a probe took, of how many rows that attend to how many positions.
#[derive(Clone, Copy, Debug)]
struct Taken {
    ns: f64,
    rows: f64,
    positions: f64,
}

impl Measure<'_> {
    /// Rows of a prompt's chunk.
    pub fn chunk(&self) -> u32 {
        self.most_rows.min(self.mix.prompt).min(self.positions()).max(1)
    }

    /// The KV cache that each executor needs.
    pub fn kv(&self) -> KvShape {
        KvShape { blocks: self.blocks() * DECODE_BATCH as usize, block_size: BLOCK_SIZE }
    }

    /// Most rows of a batch.
    pub fn max_rows(&self) -> usize {
        // Of decode rows, or of a short prompt's, there are few; what fills the cache goes faster.
        self.chunk().max(DECODE_BATCH).max(64) as usize
    }

    /// What each unit costs. `load` makes the executor of a range of units, with a KV cache of [`Self::kv`], for batches of
    /// [`Self::max_rows`]; `progress` is told how many units have been measured.
    ///
    /// # Errors
    /// Whatever `load` or an executor says.
    pub fn run(
        &self,
        load: &mut dyn FnMut(LayerRange) -> Result<Box<dyn Executor>, Fault>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<UnitCost>, Fault> {
        let probes = self.probes();
        let kinds = self.kinds();
        let mut taken: Vec<Option<Vec<f64>>> = vec![None; self.units.len()];
        for window in self.windows() {
            let is_known = |kind: usize| (0..taken.len()).any(|unit| kinds[unit] == kind && taken[unit].is_some());
            if !window.clone().all(|unit| is_known(kinds[unit])) {
                for (unit, times) in window.clone().zip(self.window(window.clone(), &probes, load)?) {
                    taken[unit] = Some(times);
                }
            }
            progress(window.end);
        }
        // Units of a kind cost the same, whichever of them something else has disturbed.
        let cost = |unit: usize| {
            let of_kind = |probe: usize| {
                let of_kind = (0..taken.len()).filter(|other| kinds[*other] == kinds[unit]);
                let times: Vec<f64> =
                    of_kind.filter_map(|other| taken[other].as_ref().map(|times| times[probe])).collect();
                times.iter().sum::<f64>() / times.len().max(1) as f64
            };
            let sight = self.units[unit].cost.sight;
            let taken: Vec<Taken> =
                probes.iter().enumerate().map(|(at, probe)| probe.took(of_kind(at), sight)).collect();
            self.cost(&taken, sight)
        };
        Ok((0..self.units.len()).map(cost).collect())
    }

    /// Longest sequence.
    fn positions(&self) -> u32 {
        u32::try_from(self.spec.max_positions()).unwrap_or(u32::MAX)
    }

    /// KV blocks of a sequence.
    fn blocks(&self) -> usize {
        self.probes().iter().map(|probe| (probe.start + probe.rows) as usize).max().unwrap_or(1).div_ceil(BLOCK_SIZE)
    }

    /// What is timed: two batches of prompt rows that see few and many positions; and where there are answers, a row that does not
    /// emit and one that does, and two batches of decode rows.
    fn probes(&self) -> Vec<Probe> {
        let (chunk, positions) = (self.chunk(), self.positions());
        if self.spec.task().is_whole() {
            let whole = |rows| Probe { first: 0, members: 1, start: 0, rows, emit: true };
            return vec![whole(chunk.div_ceil(4)), whole(chunk)];
        }
        let longest = self.mix.prompt.saturating_add(self.mix.answer);
        let far = |rows: u32| longest.max(FAR).min(positions) - rows;
        let prompt = |start| Probe { first: 0, members: 1, start, rows: chunk, emit: false };
        let row = |emit| Probe { first: 0, members: 1, start: 0, rows: 1, emit };
        let decode = |start| Probe { first: 0, members: DECODE_BATCH, start, rows: 1, emit: true };
        vec![prompt(0), prompt(far(chunk)), row(false), row(true), decode(0), decode(far(1))]
    }

    /// The cost of a unit by what [`Self::probes`] took.
    fn cost(&self, taken: &[Taken], sight: Sight) -> UnitCost {
        match taken {
            [few, many, row, emitting, near, far] => UnitCost {
                prompt: row_cost(*few, *many),
                decode: row_cost(*near, *far),
                request: (emitting.ns - row.ns).max(0.0),
                sight,
            },
            [few, many] => UnitCost { prompt: row_cost(*few, *many), sight, ..UnitCost::default() },
            _ => UnitCost::default(),
        }
    }

    /// A number for each unit, equal where units weigh and compute alike. The first and the last have a number of their own: they
    /// take and give something else.
    fn kinds(&self) -> Vec<usize> {
        let last = self.units.len().saturating_sub(1);
        let alike = |a: &Unit, b: &Unit| {
            (a.weights, a.kv_bytes_per_token, a.cost, &a.border) == (b.weights, b.kv_bytes_per_token, b.cost, &b.border)
        };
        let inner = |at: usize| (1..last).find(|other| alike(&self.units[*other], &self.units[at])).unwrap_or(at);
        (0..self.units.len()).map(|at| if at == 0 || at == last { at } else { inner(at) }).collect()
    }

    /// The units in windows of [`WINDOW_BYTES`]; what is left over goes with the window before it.
    fn windows(&self) -> Vec<LayerRange> {
        let (mut windows, mut start, mut bytes) = (Vec::<LayerRange>::new(), 0, 0_u64);
        for (at, unit) in self.units.iter().enumerate() {
            bytes = bytes.saturating_add(unit.weights.bytes);
            if bytes >= WINDOW_BYTES {
                windows.push(start..at + 1);
                (start, bytes) = (at + 1, 0);
            }
        }
        let rest = start..self.units.len();
        match windows.last_mut() {
            _ if rest.is_empty() => {}
            Some(before) if bytes < WINDOW_BYTES / 4 => before.end = rest.end,
            _ => windows.push(rest),
        }
        windows
    }

    /// How many nanoseconds each unit of `window` takes for each probe.
    fn window(
        &self,
        window: LayerRange,
        probes: &[Probe],
        load: &mut dyn FnMut(LayerRange) -> Result<Box<dyn Executor>, Fault>,
    ) -> Result<Vec<Vec<f64>>, Fault> {
        let mut ranges: Vec<LayerRange> = window.clone().map(|unit| unit..unit + 1).collect();
        ranges.extend((window.len() > 1).then(|| window.clone()));
        let mut executors = ranges.iter().map(|range| load(range.clone())).collect::<Result<Vec<_>, _>>()?;
        for (range, executor) in ranges.iter().zip(&mut executors) {
            executor.warm_up()?;
            self.fill(range, executor.as_mut())?;
        }
        let mut times = vec![Vec::new(); window.len()];
        for probe in probes {
            let (mut sums, mut rounds, first) = (vec![Duration::ZERO; ranges.len()], 0_u32, (self.clock)());
            loop {
                for ((range, executor), sum) in ranges.iter().zip(&mut executors).zip(&mut sums) {
                    let (batch, inputs) = self.batch(range, *probe)?;
                    let begun = (self.clock)();
                    executor.run(&batch, &inputs)?;
                    let took = (self.clock)().saturating_sub(begun);
                    // The first round finds nothing where it will be.
                    if rounds > 0 {
                        *sum += took;
                    }
                }
                if rounds >= ROUNDS && (self.clock)().saturating_sub(first) >= LEAST {
                    break;
                }
                rounds += 1;
            }
            let mut means: Vec<f64> = sums.iter().map(|sum| sum.as_nanos() as f64 / f64::from(rounds)).collect();
            let together = if window.len() > 1 { means.pop() } else { None };
            let apart: f64 = means.iter().sum();
            let beside = together.map_or(0.0, |together| (apart - together).max(0.0) / (window.len() - 1) as f64);
            for (times, mean) in times.iter_mut().zip(means) {
                times.push((mean - beside).max(0.0));
            }
        }
        Ok(times)
    }

    /// Writes keys and values of all sequences: memory that nobody has written to is not there, and read from a cache.
    fn fill(&self, range: &LayerRange, executor: &mut dyn Executor) -> Result<(), Fault> {
        if !self.spec.task().cached {
            return Ok(());
        }
        let end = (self.blocks() * BLOCK_SIZE).min(self.spec.max_positions()) as u32;
        for first in 0..DECODE_BATCH {
            for start in (0..end).step_by(self.max_rows()) {
                let rows = (self.max_rows() as u32).min(end - start);
                let (batch, inputs) = self.batch(range, Probe { first, members: 1, start, rows, emit: false })?;
                executor.run(&batch, &inputs)?;
            }
        }
        Ok(())
    }

    /// The batch of `probe` for a stage of `range`.
    fn batch(&self, range: &LayerRange, probe: Probe) -> Result<(Microbatch, Vec<Tensors>), Fault> {
        let takes = &self.units[range.start].border;
        let part = StagePart { spec: self.spec, range, takes, kv: self.kv(), max_rows: self.max_rows() };
        let (mut batch, input) = part.warm_up_batch(probe.rows as usize)?;
        let one = batch.members.remove(0);
        let blocks = if one.opening.work.cached { self.blocks() as u32 } else { 0 };
        for number in probe.first..probe.first + probe.members {
            let mut member = one.clone();
            member.sequence.counter = number.into();
            (member.start, member.emit) = (probe.start, probe.emit);
            member.blocks = (number * blocks..(number + 1) * blocks).collect();
            batch.members.push(member);
        }
        Ok((batch, vec![input; probe.members as usize]))
    }
}

impl Probe {
    fn took(self, ns: f64, sight: Sight) -> Taken {
        let seen = sight.seen(self.start + self.rows) - sight.seen(self.start);
        let members = f64::from(self.members);
        Taken { ns, rows: members * f64::from(self.rows), positions: members * seen }
    }
}

/// What a row costs, and each position that it attends to, by two batches of which the second attends to more.
fn row_cost(few: Taken, many: Taken) -> RowCost {
    let apart = few.rows * many.positions - many.rows * few.positions;
    let position = (many.ns * few.rows - few.ns * many.rows) / apart;
    let row = (few.ns - position * few.positions) / few.rows;
    match (row >= 0.0, position >= 0.0) {
        (true, true) => RowCost { row, position },
        // Within what runs differ by, or in sight of as many: only their rows count.
        _ => RowCost { row: (few.ns + many.ns) / (few.rows + many.rows), position: 0.0 },
    }
}

#[cfg(test)]
mod tests;
