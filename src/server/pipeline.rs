//! What is served.

use crate::options::Options;
use stageline_base::limits::{MAX_SET_BYTES, MAX_WHOLE_BYTES};
use stageline_base::{Border, Fault, StageIndex, Takes, Task, hex};
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

    /// Whether it can be served: what stays together of a request may travel at all.
    ///
    /// # Errors
    /// `InvalidRequest` that says what is too large, or what the model cannot do.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let rows = self.options.max_model_len.into();
        let most = |border: &Border| match border.is_by_rows() {
            true if self.task.is_whole() => MAX_WHOLE_BYTES,
            true => u64::MAX,
            false => MAX_SET_BYTES,
        };
        if let Some(border) = self.borders.iter().find(|border| border.most_bytes(rows) > most(border)) {
            return Err(Fault::invalid(format!(
                "{border} may be {} bytes for one request, and at most {} may travel together: serve it with a smaller \
                 --max-model-len, if it has rows",
                border.most_bytes(rows),
                most(border)
            )));
        }
        match self.task.takes {
            Takes::Tensors if self.task.generates() => {
                Err(Fault::invalid("a model that takes tensors and generates tokens cannot be served"))
            }
            _ => Ok(()),
        }
    }

    /// The pipeline as it is seen before any of it runs.
    pub(crate) fn overview(&self) -> Overview {
        let (manifest, cut) = (hex(&self.digest), self.cut.clone());
        Overview { manifest, cut, task: self.task, vocab: self.vocab, ..Overview::default() }
    }
}
