//! What of a peer's mail did nothing, and why.

/// Why something that a peer sent was refused, or something was not said to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It came in a name that is not its sender's.
    Name,
    /// Its sender holds no lease, or that of a stage that has nothing to say here.
    Stranger,
    /// A Hello's epoch is higher than its sender can need.
    Epoch,
    /// An Open, rows or a Close of a sequence that is not its sender's to speak of.
    Foreign,
    /// An Open or rows hold a token that the model has not.
    Token,
    /// A report of a replica that the request did not go to.
    Report,
    /// A report that its door was not told, or no longer, since that holds no lease.
    Lapsed,
}

/// How often, in the order of [`Refusal::ALL`].
pub type Refusals = [u64; Refusal::ALL.len()];

impl Refusal {
    /// Every reason.
    pub const ALL: [Refusal; 7] =
        [Self::Name, Self::Stranger, Self::Epoch, Self::Foreign, Self::Token, Self::Report, Self::Lapsed];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Stranger => "stranger",
            Self::Epoch => "epoch",
            Self::Foreign => "foreign",
            Self::Token => "token",
            Self::Report => "report",
            Self::Lapsed => "lapsed",
        }
    }
}
