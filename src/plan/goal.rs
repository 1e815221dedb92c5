//! What a cut is to even out, and for which load.

use std::fmt;

/// What a cut evens out between its stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Time for a request of a [`Mix`]: no stage waits long for another.
    #[default]
    Cost,
    /// Parameters: no stage needs much more memory for weights than another.
    Params,
}

impl Balance {
    /// Its name on the command line and in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Params => "params",
        }
    }

    /// The balance of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Cost, Self::Params].into_iter().find(|b| b.as_str() == name)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The requests that a cut is made for, by the lengths of a usual one.
///
/// It is written `prompt:answer`, as in `512:128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Tokens of its prompt, 1 or more.
    pub prompt: u32,
    /// Tokens of its answer, 1 or more; an encoder's vector counts as one.
    pub answer: u32,
}

impl Mix {
    /// Most tokens of either.
    pub const MOST: u32 = 1 << 24;

    /// The mix that is written `text`; `None` if none is.
    pub fn parse(text: &str) -> Option<Self> {
        let tokens = |text: &str| {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|tokens| plain && (1..=Self::MOST).contains(tokens))
        };
        let (prompt, answer) = text.split_once(':')?;
        Some(Self { prompt: tokens(prompt)?, answer: tokens(answer)? })
    }

    /// Rows of a request that go through the stages one at a time: the prompt's last row gives the first token of the
    /// answer, and the last token goes nowhere.
    pub fn decode_rows(self) -> u32 {
        self.answer.saturating_sub(1)
    }
}

impl Default for Mix {
    /// A page of text and a paragraph about it.
    fn default() -> Self {
        Self { prompt: 512, answer: 128 }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.prompt, self.answer)
    }
}

/// What a cut is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Goal {
    /// What is evened out.
    pub balance: Balance,
    /// The requests whose time counts, whatever is evened out.
    pub mix: Mix,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balances_have_names() {
        for balance in [Balance::Cost, Balance::Params] {
            assert_eq!(Balance::parse(balance.as_str()), Some(balance));
        }
        assert_eq!(Balance::parse("layers"), None);
    }

    #[test]
    fn a_mix_is_two_numbers_of_tokens() {
        for mix in [Mix::default(), Mix { prompt: 1, answer: 1 }, Mix { prompt: Mix::MOST, answer: 64 }] {
            assert_eq!(Mix::parse(&mix.to_string()), Some(mix));
        }
        for wrong in ["", "512", "512:", ":1", "0:1", "1:0", "1:2:3", "+1:2", "1: 2", "16777217:1", "a:b"] {
            assert_eq!(Mix::parse(wrong), None, "{wrong}");
        }
    }
}
