//! A body's bytes as text.

use stageline_base::Fault;

/// What UTF-8 may begin with.
const MARK: &str = "\u{feff}";

/// The text that `body` is, without a byte order mark.
///
/// # Errors
/// `InvalidRequest` if it is empty, UTF-16, or no UTF-8.
pub(super) fn of(body: &[u8]) -> Result<&str, Fault> {
    // A mark, or a letter of ASCII in two bytes.
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=127, ..] | [1..=127, 0, ..] = body {
        return Err(Fault::invalid("the body looks like UTF-16: send UTF-8"));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        Fault::invalid(format!(
            "the body is not UTF-8 (at byte {}): send a text in UTF-8, or JSON",
            error.valid_up_to()
        ))
    })?;
    match text.strip_prefix(MARK).unwrap_or(text) {
        "" => Err(Fault::invalid("the body is empty: send a text, or JSON as application/json")),
        text => Ok(text),
    }
}

/// `text`, if it is one and no other bytes that happen to be UTF-8.
///
/// # Errors
/// `InvalidRequest` if it has a zero byte.
pub(super) fn whole(text: &str) -> Result<&str, Fault> {
    match text.bytes().position(|byte| byte == 0) {
        Some(at) => {
            Err(Fault::invalid(format!("the body has a zero byte (at {at}), as no text has: send UTF-8, or JSON")))
        }
        None => Ok(text),
    }
}

/// An object of JSON that was percent-encoded (`curl --data-urlencode`) as it was before; `None` for all else.
pub(super) fn unescaped(form: &str) -> Option<String> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    if !form.get(..3)?.eq_ignore_ascii_case("%7b") {
        return None;
    }
    let mut bytes = Vec::with_capacity(form.len());
    let mut rest = form.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, rest) {
            (b'%', [high, low, after @ ..]) => {
                bytes.push((digit(high)? * 16 + digit(low)?) as u8);
                rest = after;
            }
            (b'%', _) => return None,
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mark_is_taken_off_and_other_letters_are_named() {
        assert_eq!(of("\u{feff}h\u{e9}".as_bytes()), Ok("h\u{e9}"));
        assert_eq!(of("h\u{feff}".as_bytes()), Ok("h\u{feff}"));
        for utf_16 in [&b"\xff\xfeh\0"[..], b"\xfe\xff\0h", b"h\0i\0", b"\0h\0i", b"{\0", b"\xff\xfe\0\0h\0\0\0"] {
            assert!(of(utf_16).unwrap_err().message.contains("UTF-16"), "{utf_16:?}");
        }
        assert!(of(b"ab\xff").unwrap_err().message.contains("at byte 2"));
        for empty in ["", MARK] {
            assert!(of(empty.as_bytes()).unwrap_err().message.contains("empty"));
        }
        assert!(whole("ab\0c").unwrap_err().message.contains("at 2"));
    }

    #[test]
    fn a_form_that_was_json_is_json_again() {
        let json = "{\"prompt\": \"a + b % \u{e9}\"}";
        assert_eq!(unescaped("%7B%22prompt%22%3A+%22a%20%2B%20b%20%25%20%c3%a9%22%7d").as_deref(), Some(json));
        for other in ["", "prompt=x", "{\"prompt\": 1}", "%7", "%7b%", "%7b%2", "%7b%zz", "%7b%ff", "%\u{e9}"] {
            assert_eq!(unescaped(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = of(&bytes) {
                let _ = (whole(text), unescaped(text), unescaped(&format!("%7B{text}")));
            }
        }
    }
}
