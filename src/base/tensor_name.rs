//! What a tensor is called.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A tensor's name. Those that every text's rows travel under cost nothing to make and to pass on, which a row on its way does a dozen
/// times; others are shared.
#[derive(Clone)]
pub struct TensorName(Name);

#[derive(Clone)]
enum Name {
    Usual(&'static str),
    Own(Arc<str>),
}

impl TensorName {
    /// Token ids.
    pub const TOKENS: Self = Self(Name::Usual("tokens"));
    /// Activations.
    pub const HIDDEN: Self = Self(Name::Usual("hidden"));
    /// An encoder's vector.
    pub const VECTOR: Self = Self(Name::Usual("embedding"));
}

impl From<&str> for TensorName {
    fn from(name: &str) -> Self {
        let usual = [Self::TOKENS, Self::HIDDEN, Self::VECTOR].into_iter().find(|usual| **usual == *name);
        usual.unwrap_or_else(|| Self(Name::Own(name.into())))
    }
}

impl From<String> for TensorName {
    fn from(name: String) -> Self {
        Self::from(name.as_str())
    }
}

impl Deref for TensorName {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Name::Usual(name) => name,
            Name::Own(name) => name,
        }
    }
}

impl Borrow<str> for TensorName {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for TensorName {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for TensorName {}

impl fmt::Debug for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_text_however_it_is_kept() {
        for name in ["tokens", "hidden", "embedding", "boxes", ""] {
            let kept = TensorName::from(name);
            assert_eq!((&*kept, kept.to_string(), format!("{kept:?}")), (name, name.to_owned(), format!("{name:?}")));
            assert_eq!(kept, TensorName(Name::Own(name.into())));
        }
        assert_ne!(TensorName::TOKENS, TensorName::HIDDEN);
    }
}
