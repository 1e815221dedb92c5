//! Where a replica listens: names derived from ids, never from a message's text.

use super::WireError;
use stageline_base::{ReplicaId, StageIndex};
use stageline_core::Body;

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

/// A replica and its stage.
pub type Place<'a> = (StageIndex, &'a ReplicaId);

/// The subjects of one pipeline: `stageline.v1.<pipeline>.<manifest digest, 8 digits>.s<stage>.<replica>.<plane>`, and
/// behind it the sender's `s<stage>.<replica>`, so that a user's permissions bind who may say what.
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

    /// The pipeline's name.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Where `to` hears what `from` says on `plane`.
    pub fn subject(&self, to: Place, plane: Plane, from: Place) -> String {
        let (Self { pipeline, digest }, (stage, replica), (from_stage, from)) = (self, to, from);
        format!("stageline.v1.{pipeline}.{}.s{stage}.{replica}.{}.s{from_stage}.{from}", &digest[..8], plane.suffix())
    }

    /// Where a replica hears what anybody says on `plane`.
    pub fn all_of(&self, (stage, replica): Place, plane: Plane) -> String {
        let Self { pipeline, digest } = self;
        format!("stageline.v1.{pipeline}.{}.s{stage}.{replica}.{}.*.*", &digest[..8], plane.suffix())
    }

    /// The sender that a subject names.
    pub fn sender(subject: &str) -> Option<(StageIndex, ReplicaId)> {
        let mut tokens = subject.rsplit('.');
        let replica = ReplicaId::parse(tokens.next()?)?;
        let stage = tokens.next()?.strip_prefix('s')?.parse().ok()?;
        Some((stage, replica))
    }

    /// Where the pipeline's doors take requests. One for all digests: whoever asks need not know how the model is cut.
    pub fn ask(&self) -> String {
        ask_subject(&self.pipeline)
    }

    /// Where only this digest's doors take requests.
    pub fn ask_digest(&self) -> String {
        format!("stageline.v1.{}.{}.ask", self.pipeline, &self.digest[..8])
    }

    /// The KV bucket of the pipeline's leases. One for all digests, so that a stage that waits can say that replicas of
    /// another manifest are there.
    pub fn lease_bucket(&self) -> String {
        format!("stageline-v1-{}", self.pipeline)
    }

    /// The key of a replica's lease: its stage stands in it, so that a stage's user can be kept to its own.
    pub fn lease_key(&self, stage: StageIndex, replica: &ReplicaId) -> String {
        lease_key(&self.digest, stage, replica)
    }
}

/// Where the doors of `pipeline` take requests, for whoever knows no more of it than its name.
pub fn ask_subject(pipeline: &str) -> String {
    format!("stageline.v1.{pipeline}.ask")
}

/// The key of the lease of a replica that serves the manifest of `digest`, which is one.
pub fn lease_key(digest: &str, stage: StageIndex, replica: &ReplicaId) -> String {
    format!("{}.s{stage}.{replica}", &digest[..8])
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
        let sender = ReplicaId::new("pod.2", 0xdef);
        let subject = subjects.subject((3, &replica), Plane::Control, (0, &sender));
        let place = "stageline.v1.smollm2.00112233.s3.pod_1-0000000000000abc.ctl";
        assert_eq!(subject, format!("{place}.s0.pod_2-0000000000000def"));
        assert_eq!(subjects.all_of((3, &replica), Plane::Control), format!("{place}.*.*"));
        assert_eq!(Subjects::sender(&subject), Some((0, sender)));
        for nobody in ["", "a.b", "s0", "x.s0.pod", "x.0.pod_2-0000000000000def", "x.s70000.pod_2-0000000000000def"] {
            assert_eq!(Subjects::sender(nobody), None, "{nobody}");
        }
        assert_eq!(subjects.ask_digest(), "stageline.v1.smollm2.00112233.ask");
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
