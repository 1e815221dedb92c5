//! Floor 4: where requests enter and answers leave.

mod apart;
pub mod api;
mod bodies;
mod call;
mod call_ids;
pub mod chat;
pub mod check;
pub mod conversation;
pub mod desk;
pub mod durable;
pub mod http;
mod intake;
pub mod keys;
pub mod reception;
pub mod request;
pub mod router;
pub mod site;
pub mod stages;
pub mod text;
mod workroom;

pub use conversation::{ChatMessage, Content, Conversation};
pub use intake::Intake;
pub use request::{Answer, AnswerEvent, FinishReason, Input, Readiness, Request};
pub use router::{router, routers_apart};
pub use site::{Limits, NoStore, Site, SiteSetup};
pub use stageline_runner::outgoing;
