//! The gRPC door: `proto/stageline/v1/inference.proto` says what each call does.

/// What prost and tonic make of `inference.proto`: messages, the server's trait, and the client that the load harness
/// uses.
pub mod pb {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/inference/stageline.v1.rs"));
    /// The descriptors, as server reflection tells them.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.bin"));
}
