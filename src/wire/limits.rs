//! The wire's limits. What is beyond one is refused whole.

/// Largest parcel, in bytes.
pub const MAX_PARCEL_BYTES: usize = 256 << 20;
/// Largest header of a parcel, in bytes.
pub const MAX_HEADER_BYTES: usize = 8 << 20;
/// Most segments of a Rows parcel.
pub const MAX_SEGMENTS: usize = 1 << 16;
/// Most ids that an Opening may know.
pub const MAX_KNOWN_TOKENS: usize = 1 << 20;
/// Most reports of a Feedback.
pub const MAX_REPORTS: usize = 1 << 16;
/// Most closes of a CloseNow.
pub const MAX_CLOSES: usize = 1 << 16;
/// Longest text of a fault, in bytes; a longer one is cut by its sender.
pub const MAX_FAULT_BYTES: usize = 1024;
/// Largest lease record, in bytes.
pub const MAX_STATUS_BYTES: usize = 4096;
