//! What opens a sequence on every stage of its path.

use stageline_base::{Attempt, Course, Position, ReplicaId, Sampling, SequenceId, Task, TokenId, Trace};

/// What the pipeline does with a sequence: of the model's task what stages go by, and what the request asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// In which steps its rows run.
    pub course: Course,
    /// Whether its rows stay in KV blocks.
    pub cached: bool,
    /// How the last stage turns logits into a token; `None` where it makes none.
    pub sampling: Option<Sampling>,
}

impl Work {
    /// Work of a model that does `task`, which samples so where it samples.
    pub fn of(task: Task, sampling: Sampling) -> Self {
        Self { course: task.course, cached: task.cached, sampling: task.generates().then_some(sampling) }
    }

    /// Whether it is of a model that does `task`.
    pub fn is_of(&self, task: Task) -> bool {
        self.course == task.course && self.cached == task.cached && self.sampling.is_some() == task.generates()
    }

    /// Whether its rows stay together in one microbatch at every stage.
    pub fn is_whole(&self) -> bool {
        self.course == Course::Once
    }

    /// Whether each emission is followed by a row.
    pub fn is_loop(&self) -> bool {
        self.course == Course::Loop
    }
}

/// Opens one attempt of a sequence: it travels the whole path ahead of the first rows and reserves KV blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// The sequence.
    pub sequence: SequenceId,
    /// Higher than every attempt of it before.
    pub attempt: Attempt,
    /// Where feedback goes.
    pub door: ReplicaId,
    /// The replica of each stage, in order; one entry a stage.
    pub path: Vec<ReplicaId>,
    /// For log lines only.
    pub call_id: String,
    /// For log lines only, too.
    pub trace: Trace,
    /// What to do.
    pub work: Work,
    /// All known ids: the prompt, and on a replay the tokens generated before it. None of a request that brings tensors.
    pub known: Vec<TokenId>,
    /// Positions that the sequence may take, prompt and answer together: what KV is reserved for.
    pub capacity_tokens: u32,
}

impl Opening {
    /// Whether the row at `position` is a step of the answer rather than of what was known at the opening.
    pub fn is_decode(&self, position: Position) -> bool {
        self.work.is_loop() && position as usize >= self.known.len()
    }
}
