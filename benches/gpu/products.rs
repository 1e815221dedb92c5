//! What cuBLASLt gives at a model's shapes: the rate that prefills are held against.

use crate::clock::recorded;
use crate::device::{Device, Memory};
use crate::model::Model;
use crate::report::{Part, Report};
use half::bf16;
use stageline_base::Fault;
use stageline_cuda::{Gemm, Product};

const PART: Part = Part { name: "products", says: "cuBLASLt in bf16: rows x depth x columns." };
/// Products of a round, each of weights of its own.
const PRODUCTS: usize = 4;

/// Multiplications and additions a second of all products of a layer together, at `rows` rows.
pub fn measure(device: &Device, model: &Model, rows: usize, report: &mut Report) -> Result<f64, Fault> {
    let mut gemm = Gemm::new(&device.gpu)?;
    let (mut flops, mut seconds) = (0.0, 0.0);
    for (name, columns, depth) in model.products() {
        let memory = Memory::new(device);
        let product = |_| -> Result<Product<bf16, bf16>, Fault> {
            let (weight, input) = (memory.noise(columns * depth)?, memory.noise(rows * depth)?);
            let out = memory.noise(rows * columns)?;
            Ok(Product { weight, bias: None, input, out, rows, columns, depth })
        };
        let products = (0..PRODUCTS).map(product).collect::<Result<Vec<_>, _>>()?;
        let times = recorded(device, products.len(), |i| gemm.run(&products[i]))?;
        let own = 2.0 * (rows * columns * depth) as f64;
        let what = format!("{}, {name}: {rows} x {depth} x {columns}", model.name);
        let rate = [("flop", own), ("tflop_per_s", own / times.median / 1e12)];
        report.line(&PART, &what, &[&times.in_us()[..], &rate].concat())?;
        (flops, seconds) = (flops + own, seconds + times.median);
    }
    Ok(flops / seconds)
}
