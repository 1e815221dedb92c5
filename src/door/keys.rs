//! Who a client is: the name of the key that it sends.
//!
//! Keys are kept as SHA-256 only, and looked up by it: how long that takes tells nothing of a key.

use axum::http::{HeaderMap, HeaderName, header};
use sha2::{Digest, Sha256};
use stageline_base::{Fault, FaultClass, hex};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The other header that a key may come in.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// How the key begins of which only the digest is known: `sha256:` and 64 hexadecimal digits.
const HASHED: &str = "sha256:";
/// Who sees everybody's requests.
pub const ADMIN: &str = "admin";
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Longest file, and longest name.
const MAX_FILE_BYTES: u64 = 16 << 20;
const MAX_NAME_BYTES: usize = 64;

/// Keys that a door takes, by their digest, with their names.
type Names = HashMap<String, Arc<str>>;

/// A file of keys.
pub struct Keys {
    file: PathBuf,
    state: Mutex<State>,
}

struct State {
    names: Names,
    /// What the file was like when it was read.
    mark: Mark,
    looked: Instant,
}

/// When it was changed, and how long it is.
type Mark = Option<(SystemTime, u64)>;

fn mark(file: &Path) -> Mark {
    let facts = std::fs::metadata(file).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}

/// The digest of a key, in lower-case hexadecimal.
fn digest(key: &str) -> String {
    hex(&Sha256::digest(key))
}

/// The keys of a file's text: a name and a key a line; what begins with `#`, and what is empty, is none.
///
/// # Errors
/// The first line that is wrong, and how; never the key.
fn read(text: &str) -> Result<Names, String> {
    let mut names = Names::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(name), Some(key), None) = (words.next(), words.next(), words.next()) else {
            return Err(format!("line {number}: a name and a key are expected, with a space between them"));
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.len() > MAX_NAME_BYTES || !name.chars().all(legal) {
            return Err(format!("line {number}: a name may be 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ -"));
        }
        let digest = match key.strip_prefix(HASHED) {
            Some(hex) if hex.len() == 64 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                hex.to_ascii_lowercase()
            }
            Some(_) => return Err(format!("line {number}: {HASHED} goes with 64 hexadecimal digits")),
            None => digest(key),
        };
        if names.insert(digest, name.into()).is_some_and(|other| *other != *name) {
            return Err(format!("line {number}: its key is another's already"));
        }
    }
    if names.is_empty() { Err("there is no key in it".to_owned()) } else { Ok(names) }
}

fn read_file(file: &Path) -> Result<Names, String> {
    if std::fs::metadata(file).is_ok_and(|facts| facts.len() > MAX_FILE_BYTES) {
        return Err(format!("it is longer than {MAX_FILE_BYTES} bytes"));
    }
    read(&std::fs::read_to_string(file).map_err(|error| error.to_string())?)
}

impl Keys {
    /// The keys of `file`.
    ///
    /// # Errors
    /// `InvalidRequest`, naming the file and what is wrong with it.
    pub fn open(file: &Path) -> Result<Arc<Self>, Fault> {
        let before = mark(file);
        let wrong = |why| Fault::invalid(format!("{}: the keys cannot be used: {why}", file.display()));
        let state = State { names: read_file(file).map_err(wrong)?, mark: before, looked: Instant::now() };
        Ok(Arc::new(Self { file: file.to_owned(), state: Mutex::new(state) }))
    }

    /// Whose request it is that comes with `headers`.
    ///
    /// # Errors
    /// `Unauthenticated` without a key, or with one that is not known.
    pub(crate) fn name(&self, headers: &HeaderMap) -> Result<Arc<str>, Fault> {
        let refuse = |words: &str| Fault::new(FaultClass::Unauthenticated, words);
        let key = key_of(headers).ok_or_else(|| {
            refuse("this door asks for a key: send one as Authorization: Bearer KEY, or as X-Api-Key")
        })?;
        let known = self.fresh().names.get(&digest(key)).cloned();
        known.ok_or_else(|| refuse("the key is not one that this door knows"))
    }

    /// The keys, read again if the file has changed. One that cannot be read changes nothing.
    fn fresh(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() < LOOK {
            return state;
        }
        state.looked = Instant::now();
        let now = mark(&self.file);
        if now != state.mark {
            state.mark = now;
            match read_file(&self.file) {
                Ok(names) => {
                    tracing::info!(file = %self.file.display(), keys = names.len(), "keys are read again");
                    state.names = names;
                }
                Err(why) => tracing::error!(file = %self.file.display(), why, "the keys of before stay"),
            }
        }
        state
    }
}

/// The key that a request comes with.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(&header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key);
    bearer.or_else(|| text(&API_KEY)).map(str::trim).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_line_is_a_name_and_a_key_plain_or_hashed() {
        let hashed = digest("other");
        let names = read(&format!("# who\n\nalice  secret\nbob sha256:{hashed}\nalice second\n")).unwrap();
        let name = |key: &str| names.get(&digest(key)).map(|name| name.to_string());
        assert_eq!((name("secret"), name("second")), (Some("alice".to_owned()), Some("alice".to_owned())));
        assert_eq!((name("other"), name(&hashed)), (Some("bob".to_owned()), None));
        for (text, words) in [
            ("", "no key"),
            ("# only\n", "no key"),
            ("alice", "line 1: a name and a key"),
            ("\na b c", "line 2: a name and a key"),
            ("a/b key", "line 1: a name may be"),
            ("a sha256:12", "line 1: sha256: goes with"),
            ("a key\nb key", "line 2: its key is another's"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(words), "{text:?}: {why}");
            assert!(!why.contains("key\n"), "{why}");
        }
    }

    #[test]
    fn a_key_comes_in_either_header() {
        let of = |lines: &[(HeaderName, &str)]| {
            let pair = |(name, value): &(HeaderName, &str)| (name.clone(), HeaderValue::from_str(value).unwrap());
            key_of(&lines.iter().map(pair).collect()).map(str::to_owned)
        };
        let (authorization, api_key) = (header::AUTHORIZATION, API_KEY);
        assert_eq!(of(&[(authorization.clone(), "Bearer abc")]).as_deref(), Some("abc"));
        assert_eq!(of(&[(authorization.clone(), "bearer  abc ")]).as_deref(), Some("abc"));
        assert_eq!(of(&[(api_key.clone(), "abc")]).as_deref(), Some("abc"));
        assert_eq!(of(&[(authorization.clone(), "Basic abc"), (api_key, "x")]).as_deref(), Some("x"));
        assert_eq!(
            (of(&[]), of(&[(authorization.clone(), "Bearer")]), of(&[(authorization, "Bearer ")])),
            (None, None, None)
        );
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_breaks_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, "alice one\n").unwrap();
        let keys = Keys::open(&file).unwrap();
        let name = |key: &str| {
            keys.state.lock().unwrap().looked = Instant::now().checked_sub(LOOK * 2).unwrap();
            let headers = [(API_KEY, HeaderValue::from_str(key).unwrap())].into_iter().collect();
            keys.name(&headers).map(|name| name.to_string()).map_err(|fault| fault.class)
        };
        assert_eq!((name("one"), name("two")), (Ok("alice".into()), Err(FaultClass::Unauthenticated)));
        std::fs::write(&file, "bob two-and-more\n").unwrap();
        assert_eq!((name("one"), name("two-and-more")), (Err(FaultClass::Unauthenticated), Ok("bob".into())));
        std::fs::write(&file, "broken\n").unwrap();
        assert_eq!(name("two-and-more"), Ok("bob".into()));
        assert!(Keys::open(&file).is_err_and(|fault| fault.message.contains("keys: the keys cannot be used: line 1")));
    }
}
