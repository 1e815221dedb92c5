//! Who we say we are: the URL's user and password or token, or a `.creds` file. (The library reads the file, but does not
//! look at a URL's user.)

use crate::transport::TransportError;
use async_nats::{ConnectOptions, ServerAddr};
use std::path::Path;

/// Adds the credentials of the first server that has some, and those of `file`.
pub(super) async fn add(
    mut options: ConnectOptions,
    servers: &[ServerAddr],
    file: Option<&Path>,
) -> Result<ConnectOptions, TransportError> {
    let named = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    options = match named {
        Some((user, Some(password))) => options.user_and_password(decoded(user), decoded(password)),
        Some((token, None)) => options.token(decoded(token)),
        None => options,
    };
    let Some(path) = file else { return Ok(options) };
    options
        .credentials_file(path)
        .await
        .map_err(|error| TransportError::Credentials { path: path.display().to_string(), cause: error.to_string() })
}

/// The URL (or URLs) as it may be shown.
pub(super) fn without(urls: &str) -> String {
    let shown = urls.split(',').map(|url| {
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("nats", url.trim()));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{host}")
    });
    shown.collect::<Vec<_>>().join(",")
}

/// `text` with its `%41`s resolved (RFC 3986, section 2.1).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_holds_no_secret() {
        let urls = "nats://me:pa@ss@host:4222, token@other:1,plain";
        assert_eq!(without(urls), "nats://host:4222,nats://other:1,nats://plain");
    }

    #[test]
    fn escapes_are_resolved() {
        assert_eq!(decoded("p%40ss%2fw%C3%A4%"), "p@ss/wä%");
        assert_eq!(decoded("%4"), "%4");
        assert_eq!(decoded("%zz"), "%zz");
    }
}
