//! The hop port's protocol: `proto/stageline/v1/join.proto` says what each message is for.

#![allow(missing_docs, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/join/stageline.v1.rs"));
