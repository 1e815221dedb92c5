//! Which trace a request belongs to, as W3C's Trace Context writes it (<https://www.w3.org/TR/trace-context/>): for log lines, through
//! which a request can be followed over everything that it passes.

use std::fmt;

/// The name of the header, also in gRPC's metadata and in messages of NATS.
pub const TRACEPARENT: &str = "traceparent";

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    parent: u64,
    sampled: bool,
}

impl Trace {
    /// A trace that begins here, with these random numbers, and which nobody samples.
    pub fn begun(id: u128, parent: u64) -> Self {
        // All zeros are no id.
        Self { id: id.max(1), parent: parent.max(1), sampled: false }
    }

    /// The trace with these ids; `None` if one of them is 0.
    pub fn new(id: u128, parent: u64, sampled: bool) -> Option<Self> {
        (id != 0 && parent != 0).then_some(Self { id, parent, sampled })
    }

    /// What the header's `value` says; `None` for what is malformed, which counts as absent. Of a later version, what this one knows.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let (known, more) = value.split_at_checked(55)?;
        let [version, id, parent, flags] = [0..2, 3..35, 36..52, 53..55].map(|place| number(&known[place]));
        let (version, flags) = (version?, flags?);
        let parts_end = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let ends = more.is_empty() || version > 0 && more[0] == b'-';
        if version == 0xff || !parts_end || !ends {
            return None;
        }
        Self::new(id?, parent? as u64, flags & 1 == 1)
    }

    /// The trace's id.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// The id of the span in which the request was sent.
    pub fn parent(&self) -> u64 {
        self.parent
    }

    /// Whether its sender records it.
    pub fn sampled(&self) -> bool {
        self.sampled
    }
}

/// The value of a header `traceparent`, of version 00.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.id, self.parent, u8::from(self.sampled))
    }
}

/// The number of these hexadecimal digits, of which all letters are small.
fn number(digits: &[u8]) -> Option<u128> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(u128::from(byte - b'0')),
        b'a'..=b'f' => Some(u128::from(byte - b'a' + 10)),
        _ => None,
    };
    digits.iter().try_fold(0, |number: u128, byte| Some((number << 4) | digit(byte)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[test]
    fn a_header_is_read_and_written_as_the_recommendation_says() {
        for (value, sampled) in [
            (format!("00-{ID}-{PARENT}-01"), true),
            (format!("00-{ID}-{PARENT}-00"), false),
            // Flags that this version does not know are not passed on.
            (format!("00-{ID}-{PARENT}-fe"), false),
            (format!(" 00-{ID}-{PARENT}-ff\t"), true),
            // Of later versions the front is the same.
            (format!("cc-{ID}-{PARENT}-01"), true),
            (format!("cc-{ID}-{PARENT}-01-what-the-future-will-be-like"), true),
        ] {
            let trace = Trace::parse(value.as_bytes()).unwrap_or_else(|| panic!("{value}"));
            assert_eq!(trace.to_string(), format!("00-{ID}-{PARENT}-0{}", u8::from(sampled)), "{value}");
            assert_eq!(Trace::new(trace.id(), trace.parent(), trace.sampled()), Some(trace));
            assert_eq!(Trace::parse(trace.to_string().as_bytes()), Some(trace));
        }
    }

    #[test]
    fn what_is_malformed_counts_as_absent() {
        let zeros = |count: usize| "0".repeat(count);
        for value in [
            String::new(),
            "00".into(),
            format!("00-{ID}-{PARENT}"),
            format!("00-{ID}-{PARENT}-"),
            format!("00-{ID}-{PARENT}-1"),
            format!("00-{ID}-{PARENT}-01-"),
            format!("00-{ID}-{PARENT}-01-what"),
            format!("00-{ID}-{PARENT}-011"),
            format!("cc-{ID}-{PARENT}-01.what"),
            format!("ff-{ID}-{PARENT}-01"),
            format!("0x-{ID}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", ID.to_uppercase()),
            format!("00-{ID}-{}-01", PARENT.to_uppercase()),
            format!("00-{}-{PARENT}-01", zeros(32)),
            format!("00-{ID}-{}-01", zeros(16)),
            format!("00-{ID}-{PARENT}-0G"),
            format!("00_{ID}_{PARENT}_01"),
            format!("00-{ID}-{PARENT}\u{e9}01"),
            format!("00-{ID}+{PARENT}-01"),
        ] {
            assert_eq!(Trace::parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn one_that_begins_has_ids_and_is_not_sampled() {
        let text = |id, parent| Trace::begun(id, parent).to_string();
        assert_eq!(text(0, 0), format!("00-{}1-{}1-00", "0".repeat(31), "0".repeat(15)));
        assert_eq!(text(u128::MAX, 2), format!("00-{}-{}2-00", "f".repeat(32), "0".repeat(15)));
    }
}
