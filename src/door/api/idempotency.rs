//! The key by which a client's repeated request is known.

use crate::http::kinds;
use axum::http::{HeaderMap, HeaderName};
use stageline_base::Fault;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest key.
const MAX_KEY_BYTES: usize = 255;

/// The key that a request comes with, if it does.
///
/// # Errors
/// `InvalidRequest` for one that is none.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let Some(key) = kinds::single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let wrong = || Fault::invalid(format!("Idempotency-Key may be 1 to {MAX_KEY_BYTES} visible characters of ASCII"));
    let text = key.to_str().map_err(|_| wrong())?.trim();
    let legal =
        (1..=MAX_KEY_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if legal { Ok(Some(text.to_owned())) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_key_is_a_short_visible_text() {
        let of = |values: &[&str]| {
            key(&values.iter().map(|value| (IDEMPOTENCY_KEY, HeaderValue::from_str(value).unwrap())).fold(
                HeaderMap::new(),
                |mut headers, (name, value)| {
                    headers.append(name, value);
                    headers
                },
            ))
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["\"8e03978e\""]), Ok(Some("\"8e03978e\"".to_owned())));
        assert_eq!(of(&["a", "a"]), Ok(Some("a".to_owned())));
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        for wrong in [&[""][..], &["a", "b"], &[" "], &[&long], &["a\tb"]] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
