//! What can go wrong, as a value: a class that says what to do about it, and words that say what failed and where.

use crate::StageIndex;
use std::fmt;
use std::time::Duration;

/// What kind of failure it is. One table, [`FaultClass::row`], says what each means to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// The request asks for something that no retry will make possible.
    InvalidRequest,
    /// The request or its body is over a limit.
    TooLarge,
    /// The request reached a stage that does not take requests.
    Misdirected,
    /// No room now; the same request may be sent again.
    Overloaded,
    /// The request's deadline passed.
    DeadlineExceeded,
    /// The client went away or asked to stop.
    Cancelled,
    /// A part of the pipeline is missing now.
    Unavailable,
    /// A device failed at this request's rows.
    DeviceFailed,
    /// A defect of this program, or of its model's files.
    Internal,
    /// The client has not said who it is, or nobody knows it.
    Unauthenticated,
}

/// What a fault's class means outside: the only place that decides it.
pub struct FaultRow {
    /// HTTP status of the answer.
    pub http: u16,
    /// gRPC status code (google.golang.org/grpc/codes).
    pub grpc: i32,
    /// The class's name in JSON bodies, metrics and logs.
    pub name: &'static str,
    /// Whether the client may send the same request again.
    pub retry: bool,
}

impl FaultClass {
    /// Every class, in the order of their wire numbers (from 0).
    pub const ALL: [FaultClass; 10] = [
        Self::InvalidRequest,
        Self::TooLarge,
        Self::Misdirected,
        Self::Overloaded,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Unavailable,
        Self::DeviceFailed,
        Self::Internal,
        Self::Unauthenticated,
    ];

    /// The table. 499 is nginx's code for a client that closed the connection.
    pub fn row(self) -> FaultRow {
        let (http, grpc, name, retry) = match self {
            Self::InvalidRequest => (400, 3, "invalid_request", false),
            Self::TooLarge => (413, 8, "too_large", false),
            Self::Misdirected => (421, 9, "misdirected", false),
            Self::Overloaded => (429, 8, "overloaded", true),
            Self::DeadlineExceeded => (504, 4, "deadline_exceeded", true),
            Self::Cancelled => (499, 1, "cancelled", false),
            Self::Unavailable => (503, 14, "unavailable", true),
            Self::DeviceFailed => (500, 13, "device_failed", true),
            Self::Internal => (500, 13, "internal", false),
            Self::Unauthenticated => (401, 16, "unauthenticated", false),
        };
        FaultRow { http, grpc, name, retry }
    }
}

/// A failure: its class, what failed and what to do about it, and the stage where it happened if it was at one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind it is.
    pub class: FaultClass,
    /// One line: what failed, where, and what to do. Never holds client text.
    pub message: String,
    /// The stage it happened at.
    pub stage: Option<StageIndex>,
    /// After how long it is worth sending the same request again, where that is known.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault of `class`.
    pub fn new(class: FaultClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), stage: None, retry_after: None }
    }

    /// The same fault, said to have happened at `stage`.
    pub fn at_stage(mut self, stage: StageIndex) -> Self {
        self.stage = Some(stage);
        self
    }

    /// The same fault, which is worth another try after `wait`.
    pub fn again_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// [`FaultClass::InvalidRequest`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FaultClass::InvalidRequest, message)
    }

    /// [`FaultClass::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FaultClass::Internal, message)
    }

    /// [`FaultClass::DeviceFailed`].
    pub fn device(message: impl Into<String>) -> Self {
        Self::new(FaultClass::DeviceFailed, message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Some(stage) => write!(f, "{} (stage {stage}): {}", self.class.row().name, self.message),
            None => write!(f, "{}: {}", self.class.row().name, self.message),
        }
    }
}

impl std::error::Error for Fault {}

/// An error with all that caused it, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said
}
