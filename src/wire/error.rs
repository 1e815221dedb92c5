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

/// What has been checked, or why it was refused.
pub(super) type Checked<T> = Result<T, WireError>;

/// Turns a false condition into an error.
pub(super) fn check(holds: bool, what: &'static str) -> Checked<()> {
    if holds { Ok(()) } else { Err(WireError::Illegal(what)) }
}

/// Turns a list over its limit into an error.
pub(super) fn at_most(len: usize, limit: usize, what: &'static str) -> Checked<()> {
    if len <= limit { Ok(()) } else { Err(WireError::TooLarge { what, limit }) }
}

/// The text that `bytes` are.
pub(super) fn text(bytes: &[u8]) -> Checked<&str> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Illegal("a text is not UTF-8"))
}
