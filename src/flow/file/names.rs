//! What may be a name: of flows, nodes, functions, headers, methods, and what is a URL.

use super::report::quoted;

/// Words that mean something in an expression, and so are no ids.
pub(super) const RESERVED: [&str; 32] = [
    "input",
    "item",
    "index",
    "key",
    "run",
    "error",
    "secrets",
    "nodes",
    "output",
    "none",
    "None",
    "null",
    "true",
    "True",
    "false",
    "False",
    "loop",
    "self",
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "elif",
    "for",
    "dict",
    "range",
    "namespace",
    "joiner",
    "cycler",
];

/// Headers that belong to a connection or to every call.
const OWN_HEADERS: [&str; 19] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "idempotency-key",
    "keep-alive",
    "prefer",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-call-id",
    "x-callback-url",
    "x-function-status",
    "x-duration-seconds",
];

/// A DNS label: small letters, digits and `-` within.
pub(super) fn is_label(name: &str) -> bool {
    let inner = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    inner && (1..=63).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-')
}

/// What is wrong with `name` as that of `what`, a DNS label.
pub(super) fn label(name: &str, what: &str) -> Result<(), String> {
    let words = || {
        format!("{} is no name of a {what}: small letters, digits and - within are expected, 63 at most", quoted(name))
    };
    if is_label(name) { Ok(()) } else { Err(words()) }
}

/// What is wrong with `name` as that of a function: a DNS label, or two with a dot between, name and namespace.
pub(super) fn function(name: &str) -> Result<(), String> {
    match name.split_once('.') {
        Some((name, space)) if is_label(name) && is_label(space) => Ok(()),
        _ => label(name, "function"),
    }
}

/// What is wrong with `id` as a node's.
pub(super) fn id(id: &str) -> Result<(), String> {
    if RESERVED.contains(&id) {
        return Err(format!("{} is no id: the word has a meaning in expressions", quoted(id)));
    }
    let good = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match good && (1..=63).contains(&id.len()) && !id.starts_with('-') {
        true => Ok(()),
        false => Err(format!("{} is no id: letters, digits, - and _ are expected, 63 at most", quoted(id))),
    }
}

/// Whether HTTP calls it a token.
fn is_token(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

pub(super) fn method(text: &str) -> Result<String, String> {
    match is_token(text) && !["CONNECT", "TRACE"].contains(&&*text.to_uppercase()) {
        true => Ok(text.to_uppercase()),
        false => Err(format!("{} is no method that a call can have, as GET or POST", quoted(text))),
    }
}

pub(super) fn header(name: &str) -> Result<(), String> {
    let small = name.to_lowercase();
    if OWN_HEADERS.contains(&&*small) || small.starts_with("x-stageline-") {
        return Err(format!("the header {} is not yours to set: each call has its own", quoted(name)));
    }
    if is_token(name) { Ok(()) } else { Err(format!("{} is no name of a header", quoted(name))) }
}

pub(super) fn url(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let plain =
        text.len() <= 2_000 && !text.chars().any(|c| c.is_whitespace() || c.is_control() || "<>\"\\^`{}|".contains(c));
    match host {
        Some(host) if host.contains('@') => {
            Err("a URL must not hold a password: it belongs into a header, as {{ secrets.NAME }}".into())
        }
        Some(host) if plain && !host.is_empty() && !host.starts_with(':') => Ok(()),
        _ => Err(format!("{} is no URL: one with http:// or https:// is expected", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_may_be() {
        for (name, good) in [
            ("a", true),
            ("a-1", true),
            ("1a", true),
            ("A", false),
            ("a_b", false),
            ("-a", false),
            ("", false),
            ("ü", false),
        ] {
            assert_eq!(is_label(name), good, "{name}");
        }
        assert!(function("resize.images").is_ok() && function("a.b.c").is_err() && function("a.").is_err());
        assert!(id("my_node-1").is_ok() && id("input").is_err() && id("a b").is_err() && id(&"a".repeat(64)).is_err());
        assert_eq!(method("patch"), Ok("PATCH".into()));
        assert!(method("GET /").is_err() && method("connect").is_err());
        assert!(
            header("X-Me").is_ok()
                && header("Host").is_err()
                && header("x-stageline-attempt").is_err()
                && header("a:b").is_err()
        );
        for (text, good) in [
            ("https://a.example/x?y=1", true),
            ("http://[::1]:80/", true),
            ("ftp://a", false),
            ("https://", false),
            ("https:///x", false),
            ("https://:80", false),
            ("https://a b", false),
            ("https://u:p@a", false),
            ("https://a/{{ x }}", false),
            ("a.example", false),
        ] {
            assert_eq!(url(text).is_ok(), good, "{text}");
        }
    }
}
