//! Why bytes were refused.

/// Why a parcel, a lease record or a name was refused. Never holds text that came from outside.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum WireError {
    /// Shorter than its trailer says it must be.
    #[error("a parcel of {bytes} bytes is cut short")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// Over a limit of this module.
    #[error("{what} is over its limit of {limit}")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Not a parcel, or one of another version.
    #[error(
        "the parcel ends in {found:#010x}: another wire version, or no parcel; serve every stage with one version of stageline"
    )]
    Version {
        /// The last four bytes.
        found: u32,
    },
    /// The header is no Header message.
    #[error("the header cannot be read: {0}")]
    Header(#[from] prost::DecodeError),
    /// A field is missing, or holds what it must not.
    #[error("{0}")]
    Illegal(&'static str),
    /// A lease record is no JSON of the expected form.
    #[error("the lease record cannot be read (line {line}, column {column})")]
    Record {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
}
