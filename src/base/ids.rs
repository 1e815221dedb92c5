//! Who and what a message speaks of.

use std::fmt;
use std::sync::Arc;

/// A token of the model's vocabulary.
pub type TokenId = u32;
/// Place of a token in its sequence, from 0.
pub type Position = u32;
/// How often a sequence has been opened; a higher one replaces a lower one everywhere.
pub type Attempt = u32;
/// Place of a stage in its pipeline, from 0.
pub type StageIndex = u16;

/// One request's sequence, minted by its door: the door's boot nonce and a counter.
///
/// Unique without coordination: no two processes draw the same nonce (64 random bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId {
    /// The boot nonce of the door that minted it.
    pub boot: u64,
    /// Counts up from 1 within one door process.
    pub counter: u64,
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.boot >> 32, self.counter)
    }
}

/// One process that serves a stage: its host's name and a boot nonce, so that a restarted process is a new replica.
///
/// Only `[A-Za-z0-9_-]`, at most [`ReplicaId::MAX_LEN`] bytes: it is a token of NATS subjects and KV keys.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId(Arc<str>);

impl ReplicaId {
    /// Longest id, in bytes.
    pub const MAX_LEN: usize = 80;

    /// From a host's name (any text; what a subject cannot carry becomes `_`) and a boot nonce.
    pub fn new(host: &str, boot: u64) -> Self {
        let host: String = host
            .chars()
            .take(Self::MAX_LEN - 17)
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
            .collect();
        Self(format!("{host}-{boot:016x}").into())
    }

    /// From the text of an id; `None` unless it is one that [`ReplicaId::new`] could have made.
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let (_, nonce) = text.rsplit_once('-')?;
        let whole = text.len() <= Self::MAX_LEN && text.bytes().all(legal);
        let nonce = nonce.len() == 16 && nonce.bytes().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase());
        (whole && nonce).then(|| Self(text.into()))
    }

    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The boot nonce in it.
    pub fn boot(&self) -> u64 {
        let nonce = self.0.rsplit_once('-').map_or("", |(_, nonce)| nonce);
        u64::from_str_radix(nonce, 16).unwrap_or(0)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_id_is_a_legal_subject_token_and_parses_back() {
        let id = ReplicaId::new("pod.a b*>", 0xabc);
        assert_eq!(id.as_str(), "pod_a_b__-0000000000000abc");
        assert_eq!(ReplicaId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(id.boot(), 0xabc);
        for bad in ["", "x", "a.b-0000000000000abc", "a-0000000000000ABC", "a-123"] {
            assert_eq!(ReplicaId::parse(bad), None, "{bad}");
        }
    }
}
