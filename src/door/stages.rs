//! The stages of this process as the direct services see them, past the door.

use futures::future::BoxFuture;
use stageline_base::{Border, Dim, Fault, StageIndex, Task, TensorSpec};
use stageline_core::{DirectOutput, DirectRun};
use stageline_model::LayerRange;
use stageline_wire::Status;

/// One stage as it is cut.
#[derive(Clone, Debug)]
pub struct StageFacts {
    /// Its layers.
    pub layers: LayerRange,
    /// Parameters that it holds.
    pub parameters: u64,
    /// Its share of the model's time for a decode row.
    pub cost: f64,
}

/// A pipeline as one of its processes sees it.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// SHA-256 of the manifest, hexadecimal.
    pub manifest: String,
    /// How the model is cut.
    pub cut: Vec<StageFacts>,
    /// What the model does.
    pub task: Task,
    /// Tokens of the model.
    pub vocab: u32,
    /// The stages that this process serves.
    pub here: Vec<Here>,
    /// The replicas that live.
    pub replicas: Vec<Status>,
}

/// A stage that this process serves.
#[derive(Clone, Debug)]
pub struct Here {
    /// Its place.
    pub stage: StageIndex,
    /// What crosses in front of it.
    pub takes: Border,
    /// How rows leave it for the next one; empty at the last.
    pub hop: &'static str,
}

impl Here {
    /// Elements of a row that it takes, where that is one tensor of two dimensions; otherwise 0.
    pub fn columns(&self) -> u32 {
        match self.takes.tensors() {
            [TensorSpec { dims, .. }] => match dims[..] {
                [Dim::Rows, Dim::Is(columns)] => columns,
                _ => 0,
            },
            _ => 0,
        }
    }
}

/// See the module.
pub trait Stages: Send + Sync {
    /// Runs rows through the layers of `stage`, or of the first one here. Dropped, it frees what the rows hold.
    ///
    /// # Errors
    /// `InvalidRequest` for rows that the stage does not take, `Misdirected` for a stage that is not here, or what failed.
    fn run(&self, stage: Option<StageIndex>, run: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>>;

    /// What there is.
    fn overview(&self) -> Overview;
}
