//! What a run's log says.

use super::datum::Datum;
use super::state::Key;
use serde::{Deserialize, Serialize};
use stageline_core::durable::Wall;

/// What was written together, and when: it stands or falls together. A record of a log is a list of these: one, or, in the last record
/// of a run that has ended, all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// When, in milliseconds since 1970.
    #[serde(with = "wall")]
    pub at: Wall,
    /// What.
    pub said: Vec<Logged>,
}

impl Logged {
    /// How the run had ended when all of this was said, if it had: one that is tried again goes on.
    pub fn end_of<'l>(record: impl IntoIterator<Item = &'l Moment>) -> Option<&'l Ended> {
        record.into_iter().flat_map(|moment| &moment.said).fold(None, |end, said| match said {
            Self::Ended(ended) => Some(ended),
            Self::Ordered(Order::Retry { .. }) => None,
            _ => end,
        })
    }

    /// Whether nothing was left to do when all of this was said.
    pub fn is_settled<'l>(record: impl IntoIterator<Item = &'l Moment>) -> bool {
        record.into_iter().flat_map(|moment| &moment.said).fold(false, |over, said| match said {
            Self::Delivered { .. } => true,
            Self::Ordered(Order::Retry { .. }) => false,
            _ => over,
        })
    }
}

/// A run as it was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The flow's name.
    pub flow: String,
    /// SHA-256 of the file that says what the flow is, in hexadecimal: what is in another file later is for later runs.
    pub definition: String,
    /// What it was called with.
    pub input: Datum,
    /// By then the flow must have done what it does.
    #[serde(with = "wall")]
    pub deadline: Wall,
    /// Who is told of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub principal: String,
    /// The id that its caller knows it by.
    pub call_id: String,
    /// The SHA-256 of what it was called with, in hexadecimal: the same call again joins it, another does not.
    pub digest: String,
    /// Drawn when it was accepted, so that nobody who calls can know it: what marks the place of a secret, and the pauses.
    pub nonce: u64,
    /// How long it is kept after its end, in seconds.
    pub retain_s: u64,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Given {
    /// Here.
    Here(Datum),
    /// It is what the node of this key gave.
    OutputOf(Key),
    /// It is the input of the run, or of the flow or group that the node is in.
    Input,
    /// It is the item that this is done for.
    Item,
    /// It is what the leaves gave of what is inside of it.
    Leaves,
}

/// What goes with a call beside its body.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct With {
    /// Headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// What is behind `?`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<(String, String)>,
}

impl With {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.query.is_empty()
    }
}

/// What kind of failure it is: what decides whether a call is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Nobody was reached, or the connection broke.
    Connect,
    /// It took too long.
    Timeout,
    /// An answer that is none, with this status of HTTP.
    Status(u16),
    /// It may not be called, or not with this.
    Refused,
    /// An answer that is too large.
    TooLarge,
    /// An expression could not be evaluated.
    Expression,
    /// A value is not what is needed.
    Value,
    /// The run was cancelled.
    Cancelled,
    /// Engines ended with it in hand.
    Poison,
    /// A defect.
    Internal,
}

impl FailureClass {
    /// Whether it is what `retry: on` names.
    pub(super) fn is(self, named: crate::definition::Failure) -> bool {
        use crate::definition::Failure as Named;
        match (self, named) {
            (Self::Connect, Named::Connect) | (Self::Timeout, Named::Timeout) => true,
            (Self::Status(status), Named::Status(named)) => status == named || status / 100 == named,
            _ => false,
        }
    }
}

impl Failure {
    /// As people and expressions see it: `class` is a word, and `status` is HTTP's where there was one.
    pub fn told(&self) -> serde_json::Value {
        let (class, status) = match self.class {
            FailureClass::Status(status) => ("status", Some(status)),
            FailureClass::Connect => ("connect", None),
            FailureClass::Timeout => ("timeout", None),
            FailureClass::Refused => ("refused", None),
            FailureClass::TooLarge => ("too_large", None),
            FailureClass::Expression => ("expression", None),
            FailureClass::Value => ("value", None),
            FailureClass::Cancelled => ("cancelled", None),
            FailureClass::Poison => ("poison", None),
            FailureClass::Internal => ("internal", None),
        };
        let mut told = serde_json::json!({ "node": self.node, "class": class, "reason": self.reason });
        if let Some(status) = status {
            told["status"] = status.into();
        }
        told
    }
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Of which node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Key>,
    /// Of which kind.
    pub class: FailureClass,
    /// In words.
    pub reason: String,
}

/// In which part of its life a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It does what the flow does.
    Main,
    /// It takes back what was done.
    Undoing,
    /// It does what is for runs that failed.
    OnFailure,
    /// It does what is at the end of each.
    Finally,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// With what it gives.
    Succeeded(Datum),
    /// With what failed first.
    Failed(Failure),
    /// Somebody wanted it no more.
    Cancelled,
}

/// What somebody wants of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// End.
    Cancel {
        /// Whether what was done is taken back.
        undo: bool,
    },
    /// Call nobody until it is to go on.
    Pause,
    /// Go on.
    Resume,
    /// What somebody says whom a node may wait for.
    Signal {
        /// How the node calls it.
        name: String,
        /// What is said.
        value: Datum,
    },
    /// Once more, if it has ended: what failed, or what this node and those behind it do.
    Retry {
        /// The node of the flow's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// The new deadline.
        #[serde(with = "wall")]
        deadline: Wall,
    },
}

/// One thing that the log says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logged {
    /// The run: first of all, once.
    Accepted(Box<Accepted>),
    /// An engine owns it from here on.
    Owned {
        /// Which.
        engine: String,
        /// The job that it took for it.
        job: u64,
        /// How often that had been taken by then.
        delivery: u32,
    },
    /// Its owner let go of it, alive and well.
    Released,
    /// Whatever job is taken for it next counts.
    Requeued,
    /// What somebody wants of it.
    Ordered(Order),
    /// A node is not done: its condition says so, or all that it waits for was not done.
    Skipped {
        /// Which.
        key: Key,
    },
    /// A node is done for each of these.
    Fanned {
        /// Which.
        key: Key,
        /// A list, or a map.
        items: Given,
        /// How many they are.
        count: u32,
    },
    /// A group is begun.
    Opened {
        /// Which, or for which item.
        key: Key,
        /// With what.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Given>,
    },
    /// Somebody is called.
    Called {
        /// By which node, for which item.
        key: Key,
        /// The how many-th call, from 1.
        attempt: u32,
        /// With what; a repeated call has what the first had.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Given>,
        /// And with what else.
        #[serde(default, skip_serializing_if = "With::is_empty")]
        with: With,
    },
    /// A node waits.
    Waits {
        /// Which, for which item.
        key: Key,
        /// Until then.
        #[serde(with = "wall")]
        until: Wall,
    },
    /// It is done.
    Done {
        /// Which, for which item.
        key: Key,
        /// What it gave.
        output: Given,
    },
    /// It failed.
    Failed {
        /// Which, for which item.
        key: Key,
        /// Why.
        failure: Failure,
        /// When it is tried again; if not, that was all.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "wall::maybe")]
        again: Option<Wall>,
        /// Whether the call counts as one that failed; what bears no more calls at the time costs none.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        counts: bool,
    },
    /// What the flow gives: all of its nodes are done.
    Output(Datum),
    /// All that it does cannot be done any more.
    Failing(Failure),
    /// It does something else now.
    Entered(Phase),
    /// It ended.
    Ended(Ended),
    /// Who is to be told has been, or never will be and why: nothing is left to do.
    Delivered {
        /// Why it was given up, if it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        given_up: Option<String>,
    },
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls takes a reference")]
fn is_yes(counts: &bool) -> bool {
    *counts
}

/// Times within JSON: milliseconds.
mod wall {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use stageline_core::durable::Wall;

    pub(super) fn serialize<S: Serializer>(wall: &Wall, serializer: S) -> Result<S::Ok, S::Error> {
        wall.0.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Wall, D::Error> {
        u64::deserialize(deserializer).map(Wall)
    }

    pub(super) mod maybe {
        use super::{Deserialize, Deserializer, Serialize, Serializer, Wall};

        #[expect(clippy::ref_option, reason = "what serde calls takes a reference")]
        pub(in super::super) fn serialize<S: Serializer>(
            wall: &Option<Wall>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            wall.map(|wall| wall.0).serialize(serializer)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Wall>, D::Error> {
            Ok(Option::<u64>::deserialize(deserializer)?.map(Wall))
        }
    }
}
