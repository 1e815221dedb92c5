//! Room for rows and their bytes: what credit, windows and batches are counted in.

use stageline_base::Border;

/// Room for rows and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Room {
    /// What `rows` of one request take where they cross `border`: where that is not cut by rows, as much as they may take at
    /// most, so that both ends of a link count the same.
    pub fn of(rows: impl Into<u64>, border: &Border) -> Self {
        let rows = rows.into();
        Self { rows, bytes: border.most_bytes(rows) }
    }

    /// Whether `other` fits in.
    pub fn holds(self, other: Room) -> bool {
        other.rows <= self.rows && other.bytes <= self.bytes
    }

    /// Of `want` rows of a request that are to cross `border`, those that there is room for; none, where they stay together and
    /// not all of them fit.
    pub(crate) fn grants(self, want: u64, border: &Border, whole: bool) -> u64 {
        if whole || !border.is_by_rows() {
            return if self.holds(Self::of(want, border)) { want } else { 0 };
        }
        want.min(self.rows).min(self.bytes / border.most_bytes(1).max(1))
    }

    pub(crate) fn plus(self, other: Room) -> Room {
        Room { rows: self.rows.saturating_add(other.rows), bytes: self.bytes.saturating_add(other.bytes) }
    }

    pub(crate) fn less(self, other: Room) -> Room {
        Room { rows: self.rows.saturating_sub(other.rows), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}
