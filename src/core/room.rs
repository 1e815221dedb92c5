//! Room for rows and their bytes: what credit, windows and batches are counted in.

/// Room for rows and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Room {
    /// What `rows` of `row_bytes` each take.
    pub fn of(rows: impl Into<u64>, row_bytes: u64) -> Self {
        let rows = rows.into();
        Self { rows, bytes: rows * row_bytes }
    }

    /// Whether `other` fits in.
    pub fn holds(self, other: Room) -> bool {
        other.rows <= self.rows && other.bytes <= self.bytes
    }

    /// Of `want` rows of `row_bytes` each, those that there is room for; none, where they stay together and not all of them fit.
    pub(crate) fn grants(self, want: u64, row_bytes: u64, whole: bool) -> u64 {
        let rows = want.min(self.rows).min(self.bytes / row_bytes.max(1));
        if whole && rows < want { 0 } else { rows }
    }

    pub(crate) fn plus(self, other: Room) -> Room {
        Room { rows: self.rows.saturating_add(other.rows), bytes: self.bytes.saturating_add(other.bytes) }
    }

    pub(crate) fn less(self, other: Room) -> Room {
        Room { rows: self.rows.saturating_sub(other.rows), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}
