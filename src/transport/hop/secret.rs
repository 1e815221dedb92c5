//! How a replica proves at a hop port that it is the one that its lease record speaks of.
//!
//! It shows 32 random bytes whose hash its record holds. Where the broker has users, only a stage's own user can write that
//! record and only stages can read it; and what is read there does not help to join.

use sha2::{Digest, Sha256};
use stageline_base::hex;
use std::io::Read;

/// What a replica shows.
#[derive(Clone)]
pub(super) struct Secret([u8; 32]);

impl Secret {
    /// From the system's random numbers.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn draw() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes that are shown.
    pub(super) fn shown(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// What the lease record holds.
    pub(super) fn hash(&self) -> String {
        hash_of(&self.0)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// Whether `shown` is what a record's `hash` is of. The hash is no secret, so nothing is learnt from how long this takes.
pub(super) fn is_right(shown: &[u8], hash: &str) -> bool {
    shown.len() == 32 && hash_of(shown) == hash
}

fn hash_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_right_for_its_own_hash_alone_and_is_not_shown() {
        let (one, two) = (Secret::draw().unwrap(), Secret::draw().unwrap());
        assert!(is_right(&one.shown(), &one.hash()));
        assert!(!is_right(&two.shown(), &one.hash()) && !is_right(b"", &one.hash()) && !is_right(&one.shown(), ""));
        assert_eq!(format!("{one:?}"), "Secret(not shown)");
    }
}
