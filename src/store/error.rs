//! Why a store did not do what it was asked.

/// Why a store did not do what it was asked. Never holds client text.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// Somebody else wrote first: the log's last position, or the key's revision, is another.
    #[error("somebody else has written it: it stands at {last}")]
    Conflict {
        /// Where it stands; 0: it holds nothing.
        last: u64,
    },
    /// Nobody knows whether it was done: the answer did not come. Whoever asked reads again before asking again.
    #[error("the store did not answer in time: whether it was done is not known")]
    Unknown,
    /// There is no room.
    #[error("the store is full: {what}")]
    Full {
        /// What there is no room for.
        what: String,
    },
    /// As many jobs wait in a queue as may.
    #[error("{most} jobs wait, which is as many as may")]
    Crowded {
        /// How many.
        most: u64,
    },
    /// A record, a job or a blob beyond the largest.
    #[error("{bytes} bytes are more than the {most} that the store takes at once")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest.
        most: usize,
    },
    /// It is another process's.
    #[error(
        "the store cannot be used: {file}: another process that runs has this store: stop it, or give this one a file of its own"
    )]
    Held {
        /// The file.
        file: String,
    },
    /// It cannot be reached, or cannot work; nothing was done.
    #[error("the store cannot be used: {cause}")]
    Unavailable {
        /// Why, and what to do.
        cause: String,
    },
}
