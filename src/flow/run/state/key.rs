//! What a node, or one of its items, is called in a run.

use super::State;
use crate::definition::File;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// `node`, `node.3` for an item, `group.3.node` for what is inside of one; with `~on_failure.` or `~finally.` in front where it
/// belongs to those, and with `~undo.` where it takes back what that key did.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

/// In front of the keys of what takes back.
const UNDO: &str = "~undo.";
/// In front of the keys of the frames of [`State::roots`].
pub(super) const ROOTS: [&str; 3] = ["", "~on_failure.", "~finally."];

/// Where the slot of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::run) enum Spot {
    /// Among what is taken back.
    Undo(usize),
    /// In a frame.
    Node {
        /// Which.
        frame: usize,
        /// Of which of its nodes.
        node: usize,
        /// Which of its items.
        item: Option<u32>,
    },
}

impl Key {
    /// Of a node of a frame, or of an item of it.
    pub(in crate::run) fn of(prefix: &str, id: &str, item: Option<u32>) -> Self {
        match item {
            None => Self(format!("{prefix}{id}").into()),
            Some(item) => Self(format!("{prefix}{id}.{item}").into()),
        }
    }

    /// From its text.
    pub fn read(text: &str) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of what takes back what this one did.
    pub(in crate::run) fn undo(&self) -> Self {
        Self(format!("{UNDO}{}", self.0).into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl State {
    /// Where a key's slot is; for a node that is done for items, and for one that is not begun, where the node is.
    pub(in crate::run) fn spot(&self, file: &File, key: &Key) -> Option<Spot> {
        let text = key.as_str();
        if let Some(done) = text.strip_prefix(UNDO) {
            return self.undoing.iter().position(|(key, _)| key.as_str() == done).map(Spot::Undo);
        }
        let (root, mut rest) = match (text.strip_prefix(ROOTS[1]), text.strip_prefix(ROOTS[2])) {
            (Some(rest), _) => (1, rest),
            (None, Some(rest)) => (2, rest),
            (None, None) => (0, text),
        };
        let mut frame = self.roots[root]?;
        loop {
            let (id, behind) = rest.split_once('.').map_or((rest, None), |(id, behind)| (id, Some(behind)));
            let node = self.graph(file, frame)?.place_of(id)?;
            let (item, behind) = match behind {
                Some(behind) if self.frames.get(frame)?.nodes.get(node)?.is_fanned() => {
                    let (item, behind) = behind.split_once('.').map_or((behind, None), |(i, rest)| (i, Some(rest)));
                    (Some(item.parse().ok()?), behind)
                }
                behind => (None, behind),
            };
            let spot = Spot::Node { frame, node, item };
            let Some(behind) = behind else { return Some(spot) };
            (frame, rest) = (self.slot(&spot)?.inner?, behind);
        }
    }
}
