//! What is served.

use crate::options::Options;
use stageline_base::limits::MAX_SET_BYTES;
use stageline_base::{Border, Fault, StageIndex, Task, hex};
use stageline_door::stages::{Overview, StageFacts};

/// What a pipeline is, for whoever assembles one of its replicas.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The pipeline's name.
    pub name: String,
    /// What names its cut.
    pub digest: [u8; 32],
    /// How the model is cut, a stage an entry.
    pub cut: Vec<StageFacts>,
    /// Number of stages.
    pub stages: StageIndex,
    /// Tokens of the model.
    pub vocab: u32,
    /// What crosses in front of each stage, and the answer behind the last.
    pub borders: Vec<Border>,
    /// What its model does.
    pub task: Task,
    /// How it is served.
    pub options: Options,
}

impl Pipeline {
    /// What crosses in front of `stage`, and what crosses behind it.
    pub(crate) fn borders(&self, stage: StageIndex) -> (Border, Border) {
        let at = |index: usize| self.borders.get(index).cloned().unwrap_or_else(Border::tokens);
        (at(stage.into()), at(usize::from(stage) + 1))
    }

    /// Whether what a request brings, or what crosses for it, may travel at all.
    ///
    /// # Errors
    /// `InvalidRequest` that says what is too large.
    pub(crate) fn check_sizes(&self) -> Result<(), Fault> {
        let rows = self.options.max_model_len.into();
        let large = |border: &&Border| !border.is_by_rows() && border.most_bytes(rows) > MAX_SET_BYTES;
        match self.borders.iter().find(large) {
            None => Ok(()),
            Some(border) => Err(Fault::invalid(format!(
                "{border} may be {} bytes for one request, and at most {MAX_SET_BYTES} may travel together",
                border.most_bytes(rows)
            ))),
        }
    }

    /// The pipeline as it is seen before any of it runs.
    pub(crate) fn overview(&self) -> Overview {
        let (manifest, cut) = (hex(&self.digest), self.cut.clone());
        Overview { manifest, cut, task: self.task, vocab: self.vocab, ..Overview::default() }
    }
}
