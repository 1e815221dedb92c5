//! How tokens are drawn: what a request may say of it, what each number may be, and what it is where nobody says. Every door, setting
//! and stage has it from here.

use crate::Fault;
use crate::limits::MAX_TOP_LOGITS;
use std::fmt;

/// What a number may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Its name, in requests and as a setting.
    pub name: &'static str,
    /// The least that it may be, or, where it must be `above`, what is too little.
    pub least: f32,
    /// Whether it must be above the least.
    pub above: bool,
    /// The most that it may be.
    pub most: f32,
    /// What it is where nobody says.
    pub default: f32,
    /// What that does.
    pub meaning: &'static str,
}

/// What divides the logits: how even the chances of tokens are.
pub const TEMPERATURE: Bounds = Bounds {
    name: "temperature",
    least: 0.0,
    above: false,
    most: 100.0,
    default: 0.0,
    meaning: "takes the likeliest token, always",
};
/// The probability that the tokens that are drawn from have together.
pub const TOP_P: Bounds =
    Bounds { name: "top_p", least: 0.0, above: true, most: 1.0, default: 1.0, meaning: "draws from all tokens" };
/// What known tokens lose: beyond these bounds nothing of the model's logits would be left.
pub const REPETITION_PENALTY: Bounds = Bounds {
    name: "repetition_penalty",
    least: 0.01,
    above: false,
    most: 100.0,
    default: 1.0,
    meaning: "is no penalty",
};

impl Bounds {
    /// Whether it may be `value`, which no NaN may.
    pub fn hold(&self, value: f32) -> bool {
        value <= self.most && if self.above { value > self.least } else { value >= self.least }
    }

    /// # Errors
    /// `InvalidRequest`, with its name and what it may be.
    pub fn check(&self, value: f32) -> Result<(), Fault> {
        let Self { name, default, meaning, .. } = self;
        match self.hold(value) {
            true => Ok(()),
            false => Err(Fault::invalid(format!("`{name}` may be {self} ({default} {meaning}), not {value}"))),
        }
    }
}

/// Such as `from 0 to 100`, or `above 0 and up to 1`.
impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.above {
            true => write!(f, "above {} and up to {}", self.least, self.most),
            false => write!(f, "from {} to {}", self.least, self.most),
        }
    }
}

/// How the last stage turns logits into a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; otherwise the logits are divided by it.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens; 0 is all of them.
    pub top_k: u32,
    /// Only the likeliest tokens whose probabilities sum to at least `top_p`; 1 is all of them.
    pub top_p: f32,
    /// Divides the positive logits of known tokens and multiplies the negative ones; 1 is none.
    pub repetition_penalty: f32,
    /// With the position, it decides the random number drawn.
    pub seed: u64,
    /// How many of the largest logits to report beside each token (0: none, and no digest either).
    pub top_logits: u32,
}

impl Sampling {
    /// The likeliest token, always: what a request asks for that says nothing.
    pub const GREEDY: Sampling = Sampling {
        temperature: TEMPERATURE.default,
        top_k: 0,
        top_p: TOP_P.default,
        repetition_penalty: REPETITION_PENALTY.default,
        seed: 0,
        top_logits: 0,
    };

    /// Checks each number.
    ///
    /// # Errors
    /// `InvalidRequest`, naming the first that is out of its bounds.
    pub fn check(&self) -> Result<(), Fault> {
        TEMPERATURE.check(self.temperature)?;
        TOP_P.check(self.top_p)?;
        REPETITION_PENALTY.check(self.repetition_penalty)?;
        check_top_logits(self.top_logits)
    }
}

/// Checks how many logits are to be reported.
///
/// # Errors
/// `InvalidRequest` if they are too many.
pub fn check_top_logits(asked: u32) -> Result<(), Fault> {
    match asked <= MAX_TOP_LOGITS {
        true => Ok(()),
        false => Err(Fault::invalid(format!("`top_logits` may be at most {MAX_TOP_LOGITS}, not {asked}"))),
    }
}

/// What a request says of how its tokens are drawn; `None` is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AskedSampling {
    /// See [`Sampling`], as for all of these.
    pub temperature: Option<f32>,
    /// See there.
    pub top_k: Option<u32>,
    /// See there.
    pub top_p: Option<f32>,
    /// See there.
    pub repetition_penalty: Option<f32>,
    /// Where there is none, the door draws one.
    pub seed: Option<u64>,
    /// See there.
    pub top_logits: Option<u32>,
}

impl AskedSampling {
    /// All of it, with `seed` where it names none.
    pub fn or(&self, seed: u64) -> Sampling {
        let greedy = Sampling::GREEDY;
        Sampling {
            temperature: self.temperature.unwrap_or(greedy.temperature),
            top_k: self.top_k.unwrap_or(greedy.top_k),
            top_p: self.top_p.unwrap_or(greedy.top_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(greedy.repetition_penalty),
            seed: self.seed.unwrap_or(seed),
            top_logits: self.top_logits.unwrap_or(greedy.top_logits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_bounds_are_inside_and_no_number_is_not() {
        for (bounds, least, below) in
            [(TEMPERATURE, 0.0, -1e-45), (TOP_P, f32::from_bits(1), 0.0), (REPETITION_PENALTY, 0.01, 0.0099)]
        {
            assert!(bounds.hold(least) && bounds.hold(bounds.default) && bounds.hold(bounds.most), "{bounds:?}");
            for bad in [below, bounds.most * 1.001, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(bounds.check(bad).unwrap_err().message.contains(bounds.name), "{bad} is in {bounds:?}");
            }
        }
        assert_eq!([TEMPERATURE.to_string(), TOP_P.to_string()], ["from 0 to 100", "above 0 and up to 1"]);
    }

    #[test]
    fn what_is_not_said_is_greedy_and_each_number_is_checked() {
        let none = AskedSampling::default();
        assert_eq!(
            (none.or(0), none.or(7).seed, AskedSampling { seed: Some(1), ..none }.or(7).seed),
            (Sampling::GREEDY, 7, 1)
        );
        let greedy = Sampling::GREEDY;
        assert_eq!(greedy.check(), Ok(()));
        for (bad, name) in [
            (Sampling { temperature: -1.0, ..greedy }, "temperature"),
            (Sampling { top_p: 0.0, ..greedy }, "top_p"),
            (Sampling { repetition_penalty: 0.0, ..greedy }, "repetition_penalty"),
            (Sampling { top_logits: MAX_TOP_LOGITS + 1, ..greedy }, "top_logits"),
        ] {
            assert!(bad.check().unwrap_err().message.starts_with(&format!("`{name}` may be")), "{name}");
        }
    }
}
