//! The function door and the gRPC door over real loopback connections, with a scripted pipeline behind it.

#[path = "../support/nats.rs"]
#[allow(dead_code, reason = "no broker dies here")]
mod nats;
#[path = "../support/patience.rs"]
mod patience;

mod callbacks;
mod calls;
mod durable;
mod grpc;
mod hostile_grpc;
mod kinds;
mod nasty;
mod on_nats;
mod places;
mod reference;
mod shed;
mod streams;
mod support;
mod times;
mod traces;
