//! The `grpc-timeout` of a call, as gRPC over HTTP/2 writes it: one to eight digits and a unit.

use axum::http::HeaderMap;
use stageline_base::Fault;
use std::time::Duration;

/// How long the client waits; `None` if it does not say.
///
/// # Errors
/// `InvalidRequest` for what is no timeout.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let wrong = "the metadata grpc-timeout must be one to eight digits and one of H, M, S, m, u, n, such as 500m";
    value.to_str().ok().and_then(parse).map(Some).ok_or_else(|| Fault::invalid(wrong))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_nothing_else() {
        let seconds = |text| parse(text).map(|time| time.as_secs_f64());
        assert_eq!(
            ["2H", "2M", "2S", "2m", "2u", "2n"].map(|text| seconds(text).unwrap()),
            [7200., 120., 2., 2e-3, 2e-6, 2e-9]
        );
        assert_eq!(seconds("99999999H"), Some(99_999_999. * 3600.));
        for text in ["", "1", "S", "-1S", "1.5S", "1s", "123456789S", "1 S", "é", "1é", "+1S"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
