//! What prost and tonic make of the files in `stageline/v1`, a module for each.

mod sampling;

/// `hop.proto`, what replicas say to each other, and `log.proto`, what a durable request's log holds. Nobody but `stageline-wire` reads or writes it.
pub mod hop {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/hop/stageline.v1.rs"));
}

/// `durable.proto`: durable requests as doors keep them.
pub mod durable {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/durable/stageline.v1.rs"));
}

/// `join.proto`: the hop port's protocol.
pub mod join {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/join/stageline.v1.rs"));
}

/// `inference.proto`: the services that clients call.
pub mod inference {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/inference/stageline.v1.rs"));
    /// The descriptors, as server reflection tells them.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.bin"));
}
