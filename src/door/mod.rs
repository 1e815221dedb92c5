//! Floor 4: where requests enter and answers leave.

pub mod request;

pub use request::{Answer, AnswerEvent, ChatMessage, FinishReason, Input, Intake, Readiness, Request};
