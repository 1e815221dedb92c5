//! What a head says of its body, and which kinds of bodies are taken. One that is compressed, in parts or in other letters than
//! UTF-8 is refused in words that say what to send: taken as it is, it would be answered as if it were a prompt.

use super::refusal::Refusal;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use stageline_base::Fault;

/// Charsets whose letters are UTF-8's.
const UTF_8: [&str; 4] = ["utf-8", "utf8", "us-ascii", "ascii"];
/// How charsets begin in which a byte of ASCII is what it is in ASCII.
const LIKE_ASCII: [&str; 4] = ["iso-8859-", "latin", "windows-125", "cp125"];

/// Whether a body of this kind is taken, before any of it has been read.
///
/// # Errors
/// 415 that says what to send instead, 501 for a transfer that is none of HTTP/1.1's, 400 for a head that says two things.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    single(headers, &header::CONTENT_TYPE)?;
    if let Some(coding) = words(headers, header::CONTENT_ENCODING).find(|coding| *coding != "identity") {
        return Err(unsupported(format!(
            "the body is compressed (Content-Encoding: {}): send it as it is, without that header",
            brief(&coding)
        )));
    }
    let transfer: Vec<String> = words(headers, header::TRANSFER_ENCODING).collect();
    if transfer.len() > 1 || transfer.iter().any(|coding| coding != "chunked") {
        let coding = brief(&transfer.join(", "));
        let words = format!("there is no Transfer-Encoding {coding} here: send chunks or a Content-Length");
        return Err(Refusal::with_status(StatusCode::NOT_IMPLEMENTED, words));
    }
    let kind = name(headers);
    if kind.starts_with("multipart/") {
        return Err(unsupported(
            "the body is in parts (multipart, as of curl -F): send the text alone (curl --data-binary @FILE) or JSON",
        ));
    }
    match charset(headers) {
        Some(charset) if !UTF_8.contains(&charset.as_str()) && !is_like_ascii(&charset) => Err(other_letters(&charset)),
        _ => Ok(()),
    }
}

/// Whether the letters of `body` are known, now that it is here.
///
/// # Errors
/// 415 if the head names a charset in which they would be others.
pub(crate) fn check_letters(headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
    match charset(headers) {
        Some(charset) if !UTF_8.contains(&charset.as_str()) && !body.is_ascii() => Err(other_letters(&charset)),
        _ => Ok(()),
    }
}

/// The value of a header that may be there once; several that are equal are one.
///
/// # Errors
/// `InvalidRequest` if they differ.
pub(crate) fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Fault> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.any(|value| Some(value) != first) {
        true => Err(Fault::invalid(format!("the header {name} is there twice, with different values: send one"))),
        false => Ok(first),
    }
}

/// The Content-Type in lower case, without its parameters; empty if there is none.
pub(crate) fn name(headers: &HeaderMap) -> String {
    content_type(headers).split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// `application/json` or `application/…+json`.
pub(crate) fn is_json(kind: &str) -> bool {
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}

/// What a browser's form is sent as, and whatever `curl -d` sends.
pub(crate) fn is_form(kind: &str) -> bool {
    kind == "application/x-www-form-urlencoded"
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// The charset that the Content-Type names, in lower case.
fn charset(headers: &HeaderMap) -> Option<String> {
    content_type(headers).split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']).to_ascii_lowercase();
        (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then_some(value)
    })
}

fn is_like_ascii(charset: &str) -> bool {
    LIKE_ASCII.iter().any(|start| charset.starts_with(start))
}

/// The words of a header that is a list, in lower case; what is no text is one of them.
fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = String> {
    let lists: Vec<String> =
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into()).collect();
    let words = |list: String| list.split(',').map(|word| word.trim().to_ascii_lowercase()).collect::<Vec<_>>();
    lists.into_iter().flat_map(words).filter(|word| !word.is_empty())
}

fn other_letters(charset: &str) -> Refusal {
    unsupported(format!("the Content-Type says charset={}: send UTF-8", brief(charset)))
}

fn unsupported(message: impl Into<String>) -> Refusal {
    Refusal::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
}

/// As much of a word of a header as an error may show.
fn brief(word: &str) -> String {
    word.chars().take(40).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn outcome(lines: &[(&'static str, &str)], body: &[u8]) -> u16 {
        let headers = headers(lines);
        let checked = check(&headers).and_then(|()| check_letters(&headers, body));
        checked.map_or_else(|refusal| refusal.into_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn kinds_that_would_be_taken_for_a_prompt_are_refused() {
        for (name, value, want) in [
            ("content-encoding", "gzip", 415),
            ("content-encoding", "identity, BR", 415),
            ("content-encoding", "\u{e9}", 415),
            ("content-encoding", "", 200),
            ("content-encoding", "Identity", 200),
            ("transfer-encoding", "gzip, chunked", 501),
            ("transfer-encoding", "chunked, chunked", 501),
            ("transfer-encoding", "Chunked", 200),
            ("content-type", "multipart/form-data; boundary=x", 415),
            ("content-type", "Multipart/Mixed", 415),
            ("content-type", "text/plain; charset=utf-16", 415),
            ("content-type", "application/json;x=y; Charset=\"UTF-16LE\"", 415),
            ("content-type", "text/plain; charset=shift_jis", 415),
            ("content-type", "text/plain; charset=\"UTF-8\"", 200),
            ("content-type", "text/plain; charset=", 200),
            ("content-type", "image/png", 200),
        ] {
            assert_eq!(outcome(&[(name, value)], b"x"), want, "{name}: {value}");
        }
    }

    #[test]
    fn letters_that_are_others_there_are_refused_and_ascii_is_not() {
        for charset in ["iso-8859-1", "latin1", "Windows-1252"] {
            let kind = format!("text/plain; charset={charset}");
            assert_eq!(outcome(&[("content-type", &kind)], b"all ASCII"), 200, "{charset}");
            assert_eq!(outcome(&[("content-type", &kind)], "caf\u{e9}".as_bytes()), 415, "{charset}");
        }
        assert_eq!(outcome(&[("content-type", "text/plain; charset=utf8")], "caf\u{e9}".as_bytes()), 200);
    }

    #[test]
    fn a_header_that_says_two_things_is_refused() {
        let (text, json) = (("content-type", "text/plain"), ("content-type", "application/json"));
        assert_eq!(outcome(&[text, json], b"x"), 400);
        assert_eq!(outcome(&[json, json], b"x"), 200);
    }
}
