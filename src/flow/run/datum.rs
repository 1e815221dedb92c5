//! Values between nodes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;

/// A JSON value as its sender wrote it: numbers keep their digits.
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

impl Json {
    /// Reads a text that is one JSON value; `None` if it is not.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str::<Box<RawValue>>(text.trim()).ok().map(|raw| Self(raw.into()))
    }

    /// Writes a value.
    pub fn of(value: &serde_json::Value) -> Self {
        // A value is JSON, so writing it cannot fail; `null` would stand for it.
        let raw = serde_json::value::to_raw_value(value).ok();
        Self(raw.unwrap_or_else(|| RawValue::NULL.to_owned()).into())
    }

    /// Its text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Its value; nothing where it is what no value holds. See [`Json::read_whole`].
    pub fn value(&self) -> serde_json::Value {
        self.read_whole().unwrap_or_default()
    }

    /// Its value; `None` where it is nested more deeply than values are, or has a number that is larger than they can be.
    pub fn read_whole(&self) -> Option<serde_json::Value> {
        serde_json::from_str(self.text()).ok()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.into()))
    }
}

/// What a node is given, or gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datum {
    /// Nothing: an empty body.
    Nothing,
    /// A value that expressions can look into.
    Json(Json),
    /// A body that is not JSON, or a text of JSON: sent on as it came, as what it came. Expressions see a text where it is one.
    Body {
        /// Its Content-Type.
        content_type: String,
        /// It, as base64.
        #[serde(with = "base64")]
        bytes: Arc<[u8]>,
    },
    /// A body of the store's, too large to be here.
    Blob(Arc<Blob>),
}

/// A body that the store keeps beside the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// What the store calls it.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its Content-Type.
    pub content_type: String,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Datum {
    /// A value.
    pub fn of(value: &serde_json::Value) -> Self {
        if value.is_null() { Self::Nothing } else { Self::Json(Json::of(value)) }
    }

    /// A body as it came, of that Content-Type (empty: it had none).
    ///
    /// What says that it is JSON and is, is a value, and so is a text that looks like an object or a list where nothing says that it is
    /// anything but text: functions' watchdogs say `text/plain` of whatever a function prints.
    pub fn of_body(content_type: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Nothing;
        }
        let kind = kind_of(content_type);
        let says_json = says_json(&kind);
        let may_be = kind.is_empty() || kind == "text/plain" || kind == "application/octet-stream";
        let looks = bytes.trim_ascii_start().first().is_some_and(|first| matches!(first, b'{' | b'['));
        let json = (says_json || (may_be && looks)).then(|| std::str::from_utf8(bytes).ok().and_then(Json::read));
        match json.flatten() {
            Some(json) if json.text() == "null" => Self::Nothing,
            Some(json) if !json.text().starts_with('"') => Self::Json(json),
            _ => Self::Body { content_type: content_type.to_owned(), bytes: bytes.into() },
        }
    }

    /// The text that expressions see of a body, as far as it is one.
    pub(super) fn text_of(content_type: &str, bytes: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(bytes).ok()?;
        let json = says_json(&kind_of(content_type)).then(|| serde_json::from_str(text).ok());
        Some(json.flatten().unwrap_or_else(|| text.to_owned()))
    }

    /// Its bytes as they are here: what a blob holds is not counted.
    pub fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Json(json) => json.text().len(),
            Self::Body { bytes, .. } => bytes.len(),
            Self::Blob(_) => 0,
        }
    }

    /// Whether nothing of it is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn kind_of(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn says_json(kind: &str) -> bool {
    kind == "application/json" || kind.ends_with("+json")
}

/// Bytes within JSON.
mod base64 {
    use ::base64::Engine;
    use ::base64::engine::general_purpose::STANDARD;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::sync::Arc;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Arc::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_what_it_says_or_what_it_looks_like() {
        let json = |text: &str| Datum::Json(Json::read(text).unwrap());
        let body = |kind: &str, text: &str| Datum::Body { content_type: kind.into(), bytes: text.as_bytes().into() };
        for (kind, text, datum) in [
            ("application/json", "1e400", json("1e400")),
            ("application/json; charset=utf-8", " {\"a\": 1} ", json("{\"a\": 1}")),
            ("application/json", "null", Datum::Nothing),
            ("application/json", "{", body("application/json", "{")),
            ("application/json", "\"a\"", body("application/json", "\"a\"")),
            ("text/plain", "[1]", json("[1]")),
            ("", "12", body("", "12")),
            ("image/png", "[1]", body("image/png", "[1]")),
            ("image/png", "", Datum::Nothing),
        ] {
            assert_eq!(Datum::of_body(kind, text.as_bytes()), datum, "{kind} {text}");
        }
        let seen = |kind: &str, text: &str| Datum::text_of(kind, text.as_bytes());
        assert_eq!(seen("application/json", "\"a\\nb\""), Some("a\nb".to_owned()));
        assert_eq!(seen("application/json", "{"), Some("{".to_owned()));
        assert_eq!(seen("text/plain", "\"a\""), Some("\"a\"".to_owned()));
    }

    #[test]
    fn data_are_read_as_they_were_written() {
        let blob = Blob { name: "a.b".into(), bytes: 7, content_type: "x/y".into(), sha256: "00".into() };
        let body = Datum::Body { content_type: "x/y".into(), bytes: [0, 255, 7].as_slice().into() };
        let json = Datum::Json(Json::read("[1.50, 12345678901234567890123]").unwrap());
        for datum in [Datum::Nothing, body, json, Datum::Blob(Arc::new(blob))] {
            let text = serde_json::to_string(&datum).unwrap();
            assert_eq!(serde_json::from_str::<Datum>(&text).unwrap(), datum, "{text}");
        }
    }
}
