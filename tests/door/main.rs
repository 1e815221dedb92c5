//! The function door and the gRPC door over real loopback connections, with a scripted pipeline behind it.

mod calls;
mod grpc;
mod hostile_grpc;
mod kinds;
mod nasty;
mod places;
mod shed;
mod streams;
mod support;
mod times;
