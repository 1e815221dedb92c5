//! `stageline requests`: whom it asks, and for what.

use crate::config::check::nats;
use crate::config::checked::NatsConfig;
use crate::config::raw::Reader;
use crate::config::{parse, settings as s};
use std::path::PathBuf;

/// `stageline requests`.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestsConfig {
    /// Who is asked.
    pub source: RequestsSource,
    /// The key that a door asks for.
    pub key: Option<String>,
    /// What to do.
    pub order: RequestsOrder,
    /// JSON rather than text.
    pub json: bool,
}

/// Who knows of durable requests.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestsSource {
    /// The door at this URL, which has no slash at its end.
    Target(String),
    /// A door of the pipeline of that name, over NATS.
    Nats(NatsConfig, String),
    /// The store in this file, which no server has.
    Store(PathBuf),
}

/// What to do with durable requests.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestsOrder {
    /// List so many.
    List(usize),
    /// Show one.
    Show(String),
    /// Try one anew.
    Retry(String),
    /// End one.
    Cancel(String),
}

pub(super) fn requests(r: &mut Reader) -> RequestsConfig {
    let is_id = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = r.all(&s::REQUESTS_WORDS, parse::text);
    let limit = r.value(&s::LIMIT, parse::count(1..=10_000));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let order = match words[..] {
        ["list"] => RequestsOrder::List(limit),
        ["show", id] if is_id(id) => RequestsOrder::Show(id.to_owned()),
        ["retry", id] if is_id(id) => RequestsOrder::Retry(id.to_owned()),
        ["cancel", id] if is_id(id) => RequestsOrder::Cancel(id.to_owned()),
        _ => {
            r.problems.0.push(
                "say what to do: `list`, or `show`, `retry` or `cancel` and a request's id, 32 hexadecimal digits"
                    .into(),
            );
            RequestsOrder::List(limit)
        }
    };
    RequestsConfig { source: source(r), key: r.optional(&s::KEY, parse::text), order, json: r.switch(&s::JSON) }
}

/// Who is asked: what stands in a settings' file or in the environment is there for servers, whose broker and file are asked only by flags.
fn source(r: &mut Reader) -> RequestsSource {
    let named: Vec<_> =
        [&s::REQUESTS_TARGET, &s::REQUESTS_NATS, &s::REQUESTS_STORE].into_iter().filter(|s| r.is_flag(s)).collect();
    if named.len() > 1 {
        let flags: Vec<String> = named.iter().map(|setting| setting.on_command_line()).collect();
        r.problems.0.push(format!("{}: one of them is expected", flags.join(", ")));
    }
    if r.is_flag(&s::REQUESTS_STORE) {
        return RequestsSource::Store(r.value(&s::REQUESTS_STORE, parse::path));
    }
    if r.is_flag(&s::REQUESTS_NATS) {
        let name = r.value(&s::REQUESTS_NAME, parse::name);
        if let Some(nats) = nats(r) {
            return RequestsSource::Nats(nats, name);
        }
    }
    let url = |text: &str| match ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err("a URL is expected, such as http://127.0.0.1:8080".into()),
    };
    RequestsSource::Target(r.value(&s::REQUESTS_TARGET, url))
}
