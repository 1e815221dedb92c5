//! The record that a replica's lease holds: JSON, so that a person can read it with any NATS client.

use super::subject::is_digest;
use super::{MAX_STATUS_BYTES, WIRE_VERSION, WireError};
use serde::{Deserialize, Serialize};
use stageline_base::limits::MAX_STAGES;
use stageline_base::{Element, ReplicaId, StageIndex};

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not ready yet: nothing is sent to it.
    Loading,
    /// Takes sequences.
    Ready,
    /// Finishes what it has and takes nothing new.
    Draining,
}

/// Who a replica is, and how loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`WIRE_VERSION`] of the replica.
    pub wire_version: u32,
    /// SHA-256 of its manifest, 64 lower-case hexadecimal digits.
    pub manifest: String,
    /// The stage it serves.
    pub stage: StageIndex,
    /// Its id.
    #[serde(with = "replica")]
    pub replica: ReplicaId,
    /// When its process started, in milliseconds since 1970, by its own clock.
    pub started_unix_ms: u64,
    /// How far it is.
    pub phase: Phase,
    /// Blocks of its KV cache.
    pub kv_blocks_total: u32,
    /// How many of them no sequence holds.
    pub kv_blocks_free: u32,
    /// Positions a block.
    pub block_size: u32,
    /// Longest sequence it takes, prompt and answer together.
    pub max_model_len: u32,
    /// Sequences that it holds.
    pub live_sequences: u32,
    /// The epochs of its links are at most this; it is raised before they are.
    pub link_epochs: u32,
    /// What numbers that cross between its stage and the next ones are: f32 or bf16.
    #[serde(with = "element")]
    pub wire_dtype: Element,
    /// SHA-256 of what it shows where it joins a hop port, 64 lower-case hexadecimal digits, if it joins any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<String>,
    /// Host and port at which the stage before can join it, if it has a hop port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
}

impl Status {
    /// As the lease's value.
    pub fn to_json(&self) -> Vec<u8> {
        // Numbers, two short strings and an enum: this cannot fail, and an empty record would be refused by its readers.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From a lease's value.
    ///
    /// # Errors
    /// A record that is too long, of another wire version, or malformed.
    pub fn from_json(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_STATUS_BYTES {
            return Err(WireError::TooLarge { what: "a lease record", limit: MAX_STATUS_BYTES });
        }
        let status: Self = serde_json::from_slice(bytes)
            .map_err(|error| WireError::Record { line: error.line(), column: error.column() })?;
        if status.wire_version != WIRE_VERSION {
            return Err(WireError::Version { found: status.wire_version });
        }
        if !is_digest(&status.manifest) {
            return Err(WireError::Illegal("a lease's manifest is not 64 lower-case hexadecimal digits"));
        }
        if usize::from(status.stage) >= MAX_STAGES {
            return Err(WireError::Illegal("a stage is beyond the last one possible"));
        }
        Ok(status)
    }
}

/// A replica's id as a JSON string.
mod replica {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use stageline_base::ReplicaId;

    pub fn serialize<S: Serializer>(id: &ReplicaId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(id.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ReplicaId, D::Error> {
        let text = String::deserialize(deserializer)?;
        ReplicaId::parse(&text).ok_or_else(|| D::Error::custom("not a replica's id"))
    }
}

/// An element type as a JSON string.
mod element {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use stageline_base::Element;

    pub fn serialize<S: Serializer>(element: &Element, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(element.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Element, D::Error> {
        let text = String::deserialize(deserializer)?;
        Element::parse(&text).ok_or_else(|| D::Error::custom("not an element type"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            wire_version: WIRE_VERSION,
            manifest: "ab".repeat(32),
            stage: 2,
            replica: ReplicaId::new("pod", 7),
            started_unix_ms: 1_700_000_000_000,
            phase: Phase::Ready,
            kv_blocks_total: 100,
            kv_blocks_free: 40,
            block_size: 16,
            max_model_len: 2048,
            live_sequences: 3,
            link_epochs: 1024,
            wire_dtype: Element::Bf16,
            join: Some("cd".repeat(32)),
            hop: Some("10.0.0.1:7000".into()),
        }
    }

    #[test]
    fn a_record_reads_back() {
        assert_eq!(Status::from_json(&status().to_json()), Ok(status()));
    }

    #[test]
    fn an_illegal_record_is_refused() {
        let text = String::from_utf8(status().to_json()).unwrap();
        let version = format!("\"wire_version\":{}", status().wire_version);
        let changes = [
            ("\"stage\":2", "\"stage\":1024"),
            ("\"stage\":2", "\"stage\":-1"),
            (version.as_str(), "\"wire_version\":1"),
            ("pod-", "p.d-"),
            ("abab", "ABAB"),
            ("ready", "asleep"),
            ("bf16", "fp16"),
            ("{", "["),
        ];
        for (from, to) in changes {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert!(Status::from_json(changed.as_bytes()).is_err(), "{to}");
        }
        let long = format!("{text}{}", " ".repeat(MAX_STATUS_BYTES));
        assert!(matches!(Status::from_json(long.as_bytes()), Err(WireError::TooLarge { .. })));
    }
}
