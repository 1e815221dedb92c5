//! What becomes of durable requests at a door.

/// Something that happened to a durable request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It was accepted.
    Accepted,
    /// A call repeated it, and joined.
    Joined,
    /// This door began to own it.
    Owned,
    /// This door ended it: nothing is left to do.
    Ended,
    /// This door handed it on, or another has taken it.
    HandedOn,
    /// Its end was told to who is to be told.
    Told,
    /// Its end could not be told, and will be again.
    NotTold,
    /// It is a dead letter.
    Dead,
}

impl Kept {
    /// Everything that may happen.
    pub const ALL: [Self; 8] =
        [Self::Accepted, Self::Joined, Self::Owned, Self::Ended, Self::HandedOn, Self::Told, Self::NotTold, Self::Dead];

    /// Its name on the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Joined => "joined",
            Self::Owned => "owned",
            Self::Ended => "ended",
            Self::HandedOn => "handed_on",
            Self::Told => "told",
            Self::NotTold => "not_told",
            Self::Dead => "dead",
        }
    }
}
