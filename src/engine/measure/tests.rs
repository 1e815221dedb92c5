use super::*;
use crate::Ready;
use stageline_base::{Border, Tensors};
use stageline_core::Output;
use stageline_plan::Weights;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A stage whose units take what they are said to take, by a clock that nothing else moves, and a while beside them.
struct Planted {
    units: Vec<UnitCost>,
    beside: f64,
    clock: Arc<AtomicU64>,
}

impl Executor for Planted {
    fn warm_up(&mut self) -> Result<Ready, Fault> {
        Ok(Ready { kv_blocks: 0, refused_recordings: 0 })
    }

    fn run(&mut self, batch: &Microbatch, _: &[Tensors]) -> Result<Output, Fault> {
        let mut ns = self.beside;
        for unit in &self.units {
            for member in &batch.members {
                let (start, end) = (member.start, member.start + member.rows);
                let seen = unit.sight.seen(end) - unit.sight.seen(start);
                let row = if batch.members.len() > 1 { unit.decode } else { unit.prompt };
                ns += row.row * f64::from(member.rows) + row.position * seen;
                // A decode row's cost holds the head's.
                ns += if member.emit && batch.members.len() == 1 { unit.request } else { 0.0 };
            }
        }
        self.clock.fetch_add(ns.round() as u64, Relaxed);
        Ok(Output::Emissions(Vec::new()))
    }
}

fn spec(layers: usize) -> ModelSpec {
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": layers, "vocab_size": 40, "max_position_embeddings": 2048,
    });
    ModelSpec::parse(&config).unwrap()
}

fn cost(prompt: f64, decode: f64, request: f64) -> UnitCost {
    let row = |row: f64| RowCost { row, position: row / 100.0 };
    UnitCost { prompt: row(prompt), decode: row(decode), request, sight: Sight::Before }
}

/// Units of these weights in bytes; the costs are estimates, which tell kinds apart.
fn units(bytes: &[u64], estimates: &[UnitCost]) -> Vec<Unit> {
    let unit = |(number, (bytes, cost)): (usize, (&u64, &UnitCost))| Unit {
        name: format!("layer {number}"),
        border: Border::hidden(8),
        weights: Weights { parameters: bytes / 2, bytes: *bytes },
        tied: Vec::new(),
        kv_bytes_per_token: 8,
        cost: *cost,
    };
    bytes.iter().zip(estimates).enumerate().map(unit).collect()
}

/// What is measured where units truly cost `truly`, and the ranges that were loaded for it.
fn measured(units: &[Unit], truly: &[UnitCost]) -> (Vec<UnitCost>, Vec<LayerRange>) {
    let clock = Arc::new(AtomicU64::new(0));
    let spec = spec(units.len());
    let measure = Measure {
        spec: &spec,
        units,
        mix: Mix { prompt: 200, answer: 100 },
        most_rows: 64,
        clock: &|| Duration::from_nanos(clock.load(Relaxed)),
    };
    let mut loaded = Vec::new();
    let mut load = |range: LayerRange| {
        loaded.push(range.clone());
        let executor = Planted { units: truly[range].to_vec(), beside: 50_000.0, clock: clock.clone() };
        Ok(Box::new(executor) as Box<dyn Executor>)
    };
    let costs = measure.run(&mut load, &mut |_| {}).unwrap();
    (costs, loaded)
}

fn assert_near(got: &[UnitCost], want: &[UnitCost]) {
    assert_eq!(got.len(), want.len());
    for (unit, (got, want)) in got.iter().zip(want).enumerate() {
        let numbers = |cost: &UnitCost| {
            [cost.prompt.row, cost.prompt.position, cost.decode.row, cost.decode.position, cost.request]
        };
        for (got, want) in numbers(got).into_iter().zip(numbers(want)) {
            assert!((got - want).abs() <= 0.01 * want.max(100.0), "unit {unit}: {got}, not {want}");
        }
    }
}

#[test]
fn what_units_take_is_found_whatever_a_stage_takes_beside() {
    let truly = [cost(90_000.0, 95_000.0, 0.0), cost(80_000.0, 90_000.0, 0.0), cost(80_000.0, 500_000.0, 2_000_000.0)];
    let (costs, loaded) = measured(&units(&[900, 100, 900], &truly), &truly);
    assert_near(&costs, &truly);
    // Each alone, and all together.
    assert_eq!(loaded, [0..1, 1..2, 2..3, 0..3]);
}

#[test]
fn of_units_that_are_alike_some_are_measured() {
    let (layer, wide) = (cost(80_000.0, 90_000.0, 0.0), cost(160_000.0, 180_000.0, 0.0));
    let truly = [layer, layer, layer, layer, wide, layer, layer, layer];
    let large = 200 << 20;
    let (costs, loaded) = measured(&units(&[large; 8], &truly), &truly);
    assert_near(&costs, &truly);
    // Windows of two: the second has nothing new.
    assert_eq!(loaded, [0..1, 1..2, 0..2, 4..5, 5..6, 4..6, 6..7, 7..8, 6..8]);
}

#[test]
fn what_only_wobbles_costs_no_less_than_nothing() {
    let taken = |ns, positions| Taken { ns, rows: 4.0, positions };
    // The one that sees more was quicker.
    assert_eq!(row_cost(taken(100.0, 4.0), taken(60.0, 400.0)), RowCost { row: 20.0, position: 0.0 });
    // Both see as many.
    assert_eq!(row_cost(taken(100.0, 4.0), taken(60.0, 4.0)), RowCost { row: 20.0, position: 0.0 });
    assert_eq!(row_cost(taken(100.0, 0.0), taken(180.0, 40.0)), RowCost { row: 25.0, position: 2.0 });
}
