//! What things are called in a store.

use std::fmt;
use std::sync::Arc;

/// Name of a log, a queue, a key or a blob: `<kind>.<token>`, each part of `[a-z0-9_-]`, so that it is a subject, a key and a file's
/// row alike. Client text never gets in here: its hash does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name, in bytes.
    pub const MAX_LEN: usize = 120;

    /// `<kind>.<token>`; `None` where a part is empty or holds anything else, or the whole is longer than [`Name::MAX_LEN`].
    pub fn new(kind: &str, token: &str) -> Option<Self> {
        let legal = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-'))
        };
        let fits = kind.len() + 1 + token.len() <= Self::MAX_LEN;
        (legal(kind) && legal(token) && fits).then(|| Self(format!("{kind}.{token}").into()))
    }

    /// From its text.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, token) = text.split_once('.')?;
        Self::new(kind, token)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is before the dot.
    pub fn kind(&self) -> &str {
        self.0.split_once('.').map_or("", |(kind, _)| kind)
    }

    /// What is behind the dot.
    pub fn token(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, token)| token)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_two_legal_parts() {
        let name = Name::new("request", "ab_1-2").unwrap();
        assert_eq!((name.as_str(), name.kind(), name.token()), ("request.ab_1-2", "request", "ab_1-2"));
        assert_eq!(Name::parse("request.ab_1-2"), Some(name));
        for wrong in ["", "a", "a.", ".a", "a.b.c", "A.b", "a.*", "a.b>", "a. b", "ä.b"] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Name::new("a", &"b".repeat(Name::MAX_LEN - 1)), None);
        assert!(Name::new("a", &"b".repeat(Name::MAX_LEN - 2)).is_some());
    }
}
