//! What a family says of the units that its models are cut into.

use stageline_plan::Sight;

/// A unit of a model, but for its tensors and its border: the smallest part that may be a stage of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSpec {
    /// Its name, which no other unit of the model has.
    pub name: String,
    /// KV cache for one token, in bytes.
    pub kv_bytes_per_token: u64,
    /// Multiplications and additions of a row for each position that it attends to.
    pub position_flops: u64,
    /// What a row attends to.
    pub sight: Sight,
}

/// The names of the units of a stack of `layers` layers, whose first goes with `front` and whose last with `back`.
pub(crate) fn stack_names(layers: usize, [front, back]: [&str; 2]) -> impl Iterator<Item = String> {
    (0..layers).map(move |layer| {
        let front = if layer == 0 { format!("{front} + ") } else { String::new() };
        let back = if layer + 1 == layers { format!(" + {back}") } else { String::new() };
        format!("{front}layer {layer}{back}")
    })
}
