//! Memory that two processes of one host share: a doorbell for each thread that waits, a ring for each link.
//!
//! Everything lies in anonymous files (memfd), which live as long as somebody has them open or mapped: when both
//! processes are gone, however they went, nothing is left behind. The receiver makes them, the sender opens them through
//! /proc; `join.proto` says how they agree on it. Neither end trusts what the other writes: indices, places and lengths are
//! read once and checked, so that a defective peer is refused and never followed out of bounds. What a peer can still do is
//! change a payload's bytes while they are read: they are numbers, and any bits are numbers.

mod arena;
mod bell;
mod inlet;
mod layout;
mod outlet;
mod segment;
mod watch;

pub(super) use bell::{Bell, RemoteBell};
pub(super) use inlet::{Inlet, Rings, RingsEnd};
pub(super) use layout::{Geometry, Place};
pub(super) use outlet::{Outlet, PushError};
pub(super) use segment::Segment;
pub(super) use watch::Watch;
