//! The function door over real loopback connections, with a scripted pipeline behind it.

mod calls;
mod nasty;
mod places;
mod streams;
mod support;
