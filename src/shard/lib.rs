//! Floor 2: safetensors files: names, headers, reading and writing.
//!
//! Nothing in a file is believed before it is checked: a header is compared with the file's length before anything is
//! allocated for it, and a shard's bytes with the manifest's SHA-256 before anyone computes with them.

pub mod disk;
pub mod files;
pub mod folder;
pub mod header;
pub mod load;
pub mod names;
pub mod pipeline;
pub mod read;
pub mod stranger;
pub mod verify;
pub mod write;

pub use disk::ShardOnDisk;
pub use files::{Files, without_mark};
pub use folder::ModelFolder;
pub use header::{Header, TensorEntry, TensorShape};
pub use load::{Proof, ShardFile, TensorBytes};
pub use pipeline::PipelineFolder;
