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
pub mod http;
pub mod reception;
pub mod request;
pub mod router;
pub mod site;
pub mod stages;
pub mod text;
mod workroom;

pub use conversation::{ChatMessage, Content, Conversation};
pub use request::{Answer, AnswerEvent, FinishReason, Input, Intake, Readiness, Request};
pub use router::{router, routers_apart};
pub use site::{Limits, Site, SiteSetup};
