//! A shard in memory, its digest checked while it is read.

use crate::base::Fault;
use crate::plan::FileEntry;
use crate::shard::header::{Header, TensorShape};
use crate::shard::read::{BLOCK_BYTES, OpenFile, filled};
use crate::shard::write::hex;
use bytes::Bytes;
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::mpsc;

/// One tensor's bytes, shared with the memory they were read into.
#[derive(Clone, Debug)]
pub struct TensorBytes {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The elements, row-major, little endian. In a shard that stageline wrote they start at a multiple of 64 bytes if
    /// their length is one, else at a multiple of the largest power of two that divides it (so at least of the element).
    /// In another writer's file they may start anywhere.
    pub bytes: Bytes,
}

/// A shard, whole in memory.
#[derive(Clone, Debug)]
pub struct ShardFile {
    header: Header,
    bytes: Bytes,
}

impl ShardFile {
    /// Reads the shard at `path` into fresh memory and checks its length, SHA-256 and header. The digest is computed on a
    /// second thread, of the blocks that are already there, so that it costs time only where hashing is slower than
    /// reading. `progress` is told how many bytes have come so far.
    ///
    /// # Errors
    /// `InvalidRequest` if it cannot be read or is not the file that `expected` describes.
    pub fn load(path: &Path, expected: &FileEntry, mut progress: impl FnMut(u64)) -> Result<Self, Fault> {
        let at = |problem: String| Fault::invalid(format!("{}: {problem}", path.display()));
        let open = OpenFile::open(path)?;
        if open.len != expected.bytes {
            return Err(at(format!("it has {} bytes, the manifest says {}", open.len, expected.bytes)));
        }
        let len = usize::try_from(open.len).map_err(|_| at("it does not fit in memory".into()))?;
        // The header ends at a multiple of 64 bytes in shards of ours, so aligning the file aligns the tensors.
        let mut digest = String::new();
        let bytes = filled(len, |memory| {
            digest = read_and_hash(&open, memory, &mut progress)?;
            Ok(())
        })?;
        if digest != expected.sha256 {
            return Err(at(format!("its SHA-256 is {digest}, the manifest says {}: it is damaged", expected.sha256)));
        }
        let header = Header::of_file(&bytes).map_err(at)?;
        Ok(Self { header, bytes })
    }

    /// What the shard holds.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Tensor `name`; its bytes are a part of the shard's memory, not a copy.
    ///
    /// # Errors
    /// `InvalidRequest` if it is missing.
    pub fn tensor(&self, name: &str) -> Result<TensorBytes, Fault> {
        let entry = self.header.tensors.get(name);
        let entry = entry.ok_or_else(|| Fault::invalid(format!("tensor {name:?} is missing in the shard")))?;
        let TensorShape { dtype, shape } = entry.shape.clone();
        // The header was checked against these very bytes, whose length is a usize.
        let bytes = self.bytes.slice(entry.bytes.start as usize..entry.bytes.end as usize);
        Ok(TensorBytes { dtype, shape, bytes })
    }
}

/// Fills `memory` from the start of the file; returns the SHA-256 of what was read.
fn read_and_hash(open: &OpenFile<'_>, memory: &mut [u8], progress: &mut impl FnMut(u64)) -> Result<String, Fault> {
    let blocks = memory.len().div_ceil(BLOCK_BYTES);
    std::thread::scope(|scope| {
        // Room for every block: the reader never waits for the hash.
        let (send, receive) = mpsc::sync_channel::<&[u8]>(blocks);
        let hash = scope.spawn(move || {
            let mut sha = Sha256::new();
            for block in receive {
                sha.update(block);
            }
            hex(&sha.finalize())
        });
        let mut at = 0;
        for block in memory.chunks_mut(BLOCK_BYTES) {
            open.read_at(block, at)?;
            at += block.len() as u64;
            progress(at);
            // It fails only if the hashing thread is gone, which the join below reports.
            let _ = send.send(block);
        }
        drop(send);
        hash.join().map_err(|_| Fault::internal("the hashing thread panicked"))
    })
}
