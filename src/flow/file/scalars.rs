//! Scalars as YAML 1.2's core schema reads them.

use super::report::quoted;
use serde_json::{Number, Value as Json};

/// A scalar without quotes.
///
/// # Errors
/// It is a number that JSON has no place for.
pub(super) fn plain(text: &str) -> Result<Json, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Json::Null,
        "true" | "True" | "TRUE" => Json::Bool(true),
        "false" | "False" | "FALSE" => Json::Bool(false),
        _ => return number(text).unwrap_or_else(|| Ok(Json::from(text))),
    })
}

/// A scalar whose tag says what it is.
///
/// # Errors
/// It is not that.
pub(super) fn tagged(text: &str, tag: &str) -> Result<Json, String> {
    let value = if tag == "str" { Json::from(text) } else { plain(text)? };
    let fits = match tag {
        "str" => true,
        "null" => value.is_null(),
        "bool" => value.is_boolean(),
        "int" => value.is_i64() || value.is_u64(),
        "float" => value.is_number(),
        _ => return Err(format!("the tag `!!{tag}` means nothing here: leave it out")),
    };
    if fits { Ok(value) } else { Err(format!("{} is no `!!{tag}`", quoted(text))) }
}

/// The number, if `text` is one.
fn number(text: &str) -> Option<Result<Json, String>> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(rest) =
            text.strip_prefix(prefix).filter(|rest| rest.chars().all(|c| c.is_digit(radix)) && !rest.is_empty())
        {
            return Some(u64::from_str_radix(rest, radix).map(Json::from).map_err(|_| large(text)));
        }
    }
    if digits(unsigned) {
        let plain = text.strip_prefix('+').unwrap_or(text);
        let whole = plain.parse::<i64>().map(Json::from).or_else(|_| plain.parse::<u64>().map(Json::from));
        return Some(whole.map_err(|_| large(text)));
    }
    if [".inf", ".Inf", ".INF"].contains(&unsigned) || [".nan", ".NaN", ".NAN"].contains(&text) {
        return Some(Err(format!("{} is no number that JSON can hold; a text needs quotes", quoted(text))));
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let either = digits(whole) || digits(fraction);
    let each = |text: &str| text.is_empty() || digits(text);
    if !(either && each(whole) && each(fraction) && digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))) {
        return None;
    }
    let value = text.parse::<f64>().ok().and_then(Number::from_f64);
    Some(value.map(Json::Number).ok_or_else(|| large(text)))
}

fn large(text: &str) -> String {
    format!("the number {} is too large; a text needs quotes", quoted(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_are_what_the_core_schema_says() {
        for (text, value) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("TRUE", json!(true)),
            ("yes", json!("yes")),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("017", json!(17)),
            ("-12", json!(-12)),
            ("+3", json!(3)),
            ("18446744073709551615", json!(u64::MAX)),
            ("1e3", json!(1000.0)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("1.2.3", json!("1.2.3")),
            ("-", json!("-")),
            (".", json!(".")),
            ("e3", json!("e3")),
            ("1e", json!("1e")),
            ("0x", json!("0x")),
            ("10s", json!("10s")),
            ("2026-01-01", json!("2026-01-01")),
            ("nan", json!("nan")),
        ] {
            assert_eq!(plain(text), Ok(value), "{text}");
        }
        for text in [".inf", "-.Inf", ".NaN", "1e999", "99999999999999999999"] {
            assert!(plain(text).is_err(), "{text}");
        }
        assert_eq!(tagged("1", "str"), Ok(json!("1")));
        assert!(tagged("x", "int").is_err() && tagged("", "binary").is_err());
    }
}
