//! Times as a flow says them: how long, and when.

use std::time::Duration;

/// The longest time that a flow may name.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A time: whole seconds, or as Go and OpenFaaS write it (`1m30s`, `500ms`), with `d` for days too. At most 366 days.
///
/// # Errors
/// What is allowed.
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 6] =
        [("ms", 1_000), ("us", 1), ("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)];
    let allowed =
        || "a time of at most 366 days is expected: whole seconds, or as in 500ms, 30s, 1m30s or 2d".to_owned();
    let micros = |number: &str, unit: u64| number.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_micros);
    let bounded = |time: Option<Duration>| time.filter(|time| *time <= LONGEST).ok_or_else(allowed);
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return bounded(micros(text, 1_000_000));
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let (number, unit) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let (name, long) = UNITS.into_iter().find(|(name, _)| unit.starts_with(name)).ok_or_else(allowed)?;
        total = bounded(micros(number, long).and_then(|part| total.checked_add(part)))?;
        rest = &unit[name.len()..];
    }
    if text.is_empty() { Err(allowed()) } else { Ok(total) }
}

/// A moment as RFC 3339 writes it (`2026-12-24T18:00:00Z`, `…T18:00:00.5+01:00`), or as seconds since 1970: milliseconds since then.
///
/// # Errors
/// What is allowed.
pub fn moment(text: &str) -> Result<u64, String> {
    let allowed = || "a moment is expected: as in 2026-12-24T18:00:00Z, or as seconds since 1970".to_owned();
    let seconds = text.parse::<f64>().ok().filter(|s| (0.0..1e11).contains(s)).map(|s| (s * 1e3) as u64);
    seconds.or_else(|| rfc3339(text)).ok_or_else(allowed)
}

fn rfc3339(text: &str) -> Option<u64> {
    let number = |from: usize, digits: usize, range: std::ops::RangeInclusive<i64>| {
        let digits = text.get(from..from + digits)?;
        let all = digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<i64>().ok().filter(|n| all && range.contains(n))
    };
    let sign = |at: usize, signs: &[u8]| text.as_bytes().get(at).filter(|b| signs.contains(b));
    let (year, month) = (number(0, 4, 1970..=9999)?, number(5, 2, 1..=12)?);
    let leap = i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
    let lengths = [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month - 1).ok()?;
    let day = number(8, 2, 1..=*lengths.get(before)?)?;
    let (hour, minute, second) = (number(11, 2, 0..=23)?, number(14, 2, 0..=59)?, number(17, 2, 0..=60)?);
    for (at, signs) in [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")] {
        sign(at, signs)?;
    }
    let fraction = match sign(19, b".") {
        Some(_) => text[20..].bytes().take_while(u8::is_ascii_digit).count(),
        None => 0,
    };
    let zone = if fraction > 0 { 20 + fraction } else { 19 };
    let thousandths: i64 = match fraction {
        0 => 0,
        _ => format!("{:0<3.3}", &text[20..zone]).parse().ok()?,
    };
    let offset = match text.get(zone..)? {
        "Z" | "z" => 0,
        other if other.len() == 6 => {
            sign(zone + 3, b":")?;
            let minutes = number(zone + 1, 2, 0..=23)? * 60 + number(zone + 4, 2, 0..=59)?;
            if *sign(zone, b"+-")? == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    let days = (year - 1970) * 365 + leaps(year - 1) - leaps(1969) + lengths[..before].iter().sum::<i64>() + day - 1;
    let minutes = (days * 24 + hour) * 60 + minute - offset;
    u64::try_from((minutes * 60 + second) * 1000 + thousandths).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let seconds = |text| duration(text).map(|time| time.as_secs_f64());
        for (text, expected) in
            [("10", 10.0), ("500ms", 0.5), ("1m30s", 90.0), ("2d", 172_800.0), ("1h0m", 3600.0), ("250us", 0.000_25)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "1", "1x", "1.5s", "-1s", "1 s", "367d", "366d1us", "99999999999999999999d", "1ms2", "ü"]
        {
            assert_eq!(duration(text).is_err(), text != "1", "{text}");
        }
    }

    #[test]
    fn moments_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-12-24T18:00:00Z", 1_798_135_200_000),
            ("2026-12-24T19:00:00.25+01:00", 1_798_135_200_250),
            ("2024-02-29t23:59:59.9999z", 1_709_251_199_999),
            ("1709251199", 1_709_251_199_000),
            ("1.5", 1_500),
        ] {
            assert_eq!(moment(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01",
            "1969-12-31T23:59:59Z",
            "-1",
            "inf",
            "1970-01-01T00:00:00+01:00",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00.Z",
            "ü026-01-01T00:00:00Z",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
