//! The APIs of a door. Each is a request read, an answer's events written and a fault told in its own words; what they share is
//! in [`crate::site`] and [`crate::http`].

pub mod flows;
pub mod forms;
pub mod grpc;
mod idempotency;
pub mod native;
pub mod nats;
