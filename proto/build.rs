//! Compiles `proto/` with a protobuf compiler that is a Rust library: no `protoc` needs to be installed.

use prost::Message;
use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=stageline");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // The wire's messages know nothing of gRPC, and each service is generated where it is spoken: hence a folder a file. log.proto takes
    // hop.proto along.
    let hop = with_bytes(compile("log")?);
    prost_build::Config::new().bytes(["."]).out_dir(folder(&out, "hop")?).compile_fds(hop)?;
    let durable = compile("durable")?;
    prost_build::Config::new().bytes(["."]).out_dir(folder(&out, "durable")?).compile_fds(durable)?;
    for service in ["inference", "join"] {
        let files = compile(service)?;
        if service == "inference" {
            // What server reflection tells clients.
            std::fs::write(out.join("inference.bin"), files.encode_to_vec())?;
        }
        tonic_prost_build::configure()
            .build_transport(false)
            .bytes(".")
            .out_dir(folder(&out, service)?)
            .compile_fds(files)?;
    }
    Ok(())
}

fn compile(name: &str) -> Result<prost_types::FileDescriptorSet, Box<dyn Error>> {
    Ok(protox::compile([format!("stageline/v1/{name}.proto")], ["."])?)
}

/// The fields of messages that are read and written by hand (`wire/rows.rs`, `wire/tensors.rs`): to prost they are bytes, which is
/// how they are encoded.
const BY_HAND: [(&str, &str); 3] = [("Frame", "rows"), ("Answer", "tensors"), ("LogAnswer", "tensors")];

fn with_bytes(mut files: prost_types::FileDescriptorSet) -> prost_types::FileDescriptorSet {
    for message in files.file.iter_mut().flat_map(|file| &mut file.message_type) {
        let name = message.name().to_owned();
        for field in message.field.iter_mut().filter(|field| BY_HAND.contains(&(&name, field.name()))) {
            field.set_type(prost_types::field_descriptor_proto::Type::Bytes);
            field.type_name = None;
        }
    }
    files
}

fn folder(out: &Path, name: &str) -> std::io::Result<PathBuf> {
    let folder = out.join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
