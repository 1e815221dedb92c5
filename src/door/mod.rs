//! Floor 4: where requests enter and answers leave.

mod call;
pub mod chat;
pub mod check;
pub mod desk;
pub mod grpc;
pub mod http;
pub mod nats;
pub mod reception;
pub mod request;
pub mod stages;
pub mod text;
mod workroom;

pub use request::{Answer, AnswerEvent, ChatMessage, FinishReason, Input, Intake, Readiness, Request};
