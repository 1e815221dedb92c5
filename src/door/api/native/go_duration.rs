//! Durations as Go writes them, which is how OpenFaaS' headers and settings spell time.

use std::time::Duration;

/// `text` as Go's `time.ParseDuration` reads it, such as `1m30s` or `1.5h`; `None` if it is none, negative or over 2^63 ns.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit_nanos = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * unit_nanos;
        rest = after;
    }
    (nanos < i64::MAX as f64).then(|| Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let ms = |text| parse(text).map(|d| d.as_micros() as f64 / 1e3);
        for (text, want) in [
            ("1s", 1000.0),
            ("1m30s", 90_000.0),
            ("1.5h", 5_400_000.0),
            ("500ms", 500.0),
            ("+.5s", 500.0),
            ("1h2m3.004s", 3_723_004.0),
            ("2us", 0.002),
            ("2µs", 0.002),
            ("0", 0.0),
            ("1.s", 1000.0),
        ] {
            assert_eq!(ms(text), Some(want), "{text}");
        }
        for bad in ["", "1", "s", "-1s", "1 s", "1d", "1s2", ".s", "1..2s", "1e3s", "9999999h", "infs", "NaNs", "+"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }
}
