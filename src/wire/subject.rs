//! Where a replica listens: names derived from ids, never from a message's text.

use super::WireError;
use crate::base::{ReplicaId, StageIndex};
use crate::core::Body;

/// What a message is for, and so which of a replica's subjects it goes to. Order is kept within a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plane {
    /// Acks, credit and the door's orders: read first.
    Control,
    /// What stages tell a door.
    Feedback,
    /// The link's ordered stream.
    Stream,
}

impl Plane {
    /// Every plane.
    pub const ALL: [Plane; 3] = [Plane::Control, Plane::Feedback, Plane::Stream];

    /// The plane of a message.
    pub fn of(body: &Body) -> Self {
        match body {
            Body::Link(_) => Self::Stream,
            Body::Reply(_) | Body::FeedbackAck { .. } | Body::CloseNow { .. } | Body::Ping => Self::Control,
            Body::Feedback(_) | Body::CloseAck { .. } => Self::Feedback,
        }
    }

    /// The last token of the plane's subject.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Control => "ctl",
            Self::Feedback => "fb",
            Self::Stream => "in",
        }
    }
}

/// The subjects of one pipeline: `stageline.v1.<pipeline>.<manifest digest, 8 digits>.s<stage>.<replica>.<plane>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    pipeline: String,
    digest: String,
}

impl Subjects {
    /// Subjects of the pipeline of that name and manifest digest (SHA-256, hexadecimal).
    ///
    /// # Errors
    /// A name that is no function's name (`[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 characters), or a digest that is not
    /// 64 lower-case hexadecimal digits.
    pub fn new(pipeline: &str, digest: &str) -> Result<Self, WireError> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let edges = !pipeline.starts_with('-') && !pipeline.ends_with('-');
        if pipeline.is_empty() || pipeline.len() > 63 || !edges || !pipeline.chars().all(legal) {
            return Err(WireError::Illegal(
                "the pipeline's name is not [a-z0-9]([-a-z0-9]*[a-z0-9])? of at most 63 characters",
            ));
        }
        if !is_digest(digest) {
            return Err(WireError::Illegal("the manifest's digest is not 64 lower-case hexadecimal digits"));
        }
        Ok(Self { pipeline: pipeline.to_owned(), digest: digest.to_owned() })
    }

    /// The manifest's digest, whole.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Where `replica` of `stage` hears `plane`.
    pub fn subject(&self, stage: StageIndex, replica: &ReplicaId, plane: Plane) -> String {
        let Self { pipeline, digest } = self;
        format!("stageline.v1.{pipeline}.{}.s{stage}.{replica}.{}", &digest[..8], plane.suffix())
    }

    /// Where the pipeline's doors take requests. One for all digests: whoever asks need not know how the model is cut.
    pub fn ask(&self) -> String {
        ask_subject(&self.pipeline)
    }

    /// The KV bucket of the pipeline's leases. One for all digests, so that a stage that waits can say that replicas of
    /// another manifest are there.
    pub fn lease_bucket(&self) -> String {
        format!("stageline-v1-{}", self.pipeline)
    }

    /// The key of a replica's lease.
    pub fn lease_key(&self, stage: StageIndex, replica: &ReplicaId) -> String {
        format!("{}.s{stage}.{replica}", &self.digest[..8])
    }
}

/// Where the doors of `pipeline` take requests, for whoever knows no more of it than its name.
pub fn ask_subject(pipeline: &str) -> String {
    format!("stageline.v1.{pipeline}.ask")
}

/// Whether `text` is a SHA-256 as 64 lower-case hexadecimal digits.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn subjects_and_keys_hold_ids_only() {
        let subjects = Subjects::new("smollm2", DIGEST).unwrap();
        let replica = ReplicaId::new("pod.1", 0xabc);
        let subject = subjects.subject(3, &replica, Plane::Control);
        assert_eq!(subject, "stageline.v1.smollm2.00112233.s3.pod_1-0000000000000abc.ctl");
        assert_eq!(subjects.lease_key(3, &replica), "00112233.s3.pod_1-0000000000000abc");
        assert_eq!(subjects.lease_bucket(), "stageline-v1-smollm2");
    }

    #[test]
    fn what_a_subject_cannot_carry_is_refused() {
        for name in ["", "-a", "a-", "a.b", "a b", "A", "*", ">", &"a".repeat(64)] {
            assert!(Subjects::new(name, DIGEST).is_err(), "{name:?}");
        }
        for digest in ["", "00112233", &DIGEST.to_uppercase(), &DIGEST.replace('0', ".")] {
            assert!(Subjects::new("a", digest).is_err(), "{digest:?}");
        }
    }
}
