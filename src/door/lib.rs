//! Floor 4: where requests enter and answers leave.

mod apart;
mod call;
pub mod chat;
pub mod check;
pub mod conversation;
pub mod desk;
pub mod grpc;
pub mod http;
pub mod nats;
pub mod reception;
pub mod request;
pub mod stages;
pub mod text;
mod workroom;

pub use conversation::{ChatMessage, Content, Conversation};
pub use request::{Answer, AnswerEvent, FinishReason, Input, Intake, Readiness, Request};
