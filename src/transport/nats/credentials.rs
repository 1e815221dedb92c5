//! Who we say we are: the URL's user and password or token, a user whose password is in a file, or a `.creds` file. (The library reads the file, but does not
//! look at a URL's user.)

use crate::TransportError;
use async_nats::{ConnectOptions, ServerAddr};
use std::path::{Path, PathBuf};

/// What we show beside what the URL says.
pub(super) struct Shown<'a> {
    /// A user, and the file with its password.
    pub(super) user: Option<&'a (String, PathBuf)>,
    /// A `.creds` file.
    pub(super) file: Option<&'a Path>,
}

/// Adds the credentials of the first server that has some, or the user's, and those of the file.
pub(super) async fn add(
    mut options: ConnectOptions,
    servers: &[ServerAddr],
    shown: Shown<'_>,
) -> Result<ConnectOptions, TransportError> {
    let named = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    options = match named {
        Some((user, Some(password))) => options.user_and_password(decoded(user), decoded(password)),
        Some((token, None)) => options.token(decoded(token)),
        None => options,
    };
    let failed = |path: &Path, cause: String| TransportError::Credentials { path: path.display().to_string(), cause };
    if let Some((user, path)) = shown.user {
        let password = tokio::fs::read_to_string(path).await.map_err(|error| failed(path, error.to_string()))?;
        // Editors and shells end a file with a line's end that is no part of the secret.
        options = options.user_and_password(user.clone(), password.trim_end_matches(['\r', '\n']).to_owned());
    }
    let Some(path) = shown.file else { return Ok(options) };
    options.credentials_file(path).await.map_err(|error| failed(path, error.to_string()))
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
