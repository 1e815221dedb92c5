//! What a model does with a request, as one value.

/// What a model does with a request. Its family says it, and every stage, door and client goes by it: nobody else asks what kind
/// of model it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// What a request brings.
    pub takes: Takes,
    /// What its answer is.
    pub gives: Gives,
    /// In which steps it runs.
    pub course: Course,
    /// Whether its rows stay in a cache, in blocks, for the rows after them.
    pub cached: bool,
}

/// What a request brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Token ids, one a row.
    Tokens,
    /// Tensors, as the family says what crosses in front of its first layer.
    Tensors,
}

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Tokens, one after the other, each sampled from logits.
    Tokens,
    /// One vector.
    Vector,
    /// Tensors, as the family says.
    Tensors,
}

/// In which steps a request runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// One step, indivisible: all of its rows are in one microbatch at every stage, and the answer comes of them all.
    Once,
    /// A prefill, which may run in pieces, then a row for each token that was sampled.
    Loop,
}

/// What most models do.
impl Default for Task {
    fn default() -> Self {
        Self::GENERATE
    }
}

impl Task {
    /// What a decoder does: text goes on, token by token.
    pub const GENERATE: Self = Self { takes: Takes::Tokens, gives: Gives::Tokens, course: Course::Loop, cached: true };
    /// What an encoder does: a text becomes a vector.
    pub const EMBED: Self = Self { takes: Takes::Tokens, gives: Gives::Vector, course: Course::Once, cached: false };

    /// Whether answers are tokens.
    pub fn generates(self) -> bool {
        self.gives == Gives::Tokens
    }

    /// What it does, as one says "this pipeline …".
    pub fn verb(self) -> &'static str {
        match self.gives {
            Gives::Tokens => "generates",
            Gives::Vector => "embeds",
            Gives::Tensors => "infers",
        }
    }

    /// Whether a request's rows stay together in one microbatch.
    pub fn is_whole(self) -> bool {
        self.course == Course::Once
    }
}
