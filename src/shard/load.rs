//! A shard in memory, its digest computed while it is read.

use crate::header::{Header, TensorShape};
use crate::read::{BLOCK_BYTES, OpenFile, fault_at, filled};
use crate::verify::check_open;
use bytes::Bytes;
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use stageline_base::Fault;
use stageline_base::hex;
use stageline_plan::FileEntry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

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

/// The SHA-256 of a shard that is still being computed. What is made of the shard may not serve before it is right.
#[derive(Debug)]
#[must_use = "a shard is not to be trusted before its digest is known"]
pub struct Proof(JoinHandle<Result<(), Fault>>);

impl Proof {
    /// Has a thread read the open file by itself, to prove it (see [`check_open`]).
    ///
    /// # Errors
    /// `InvalidRequest` if the thread cannot be started.
    pub(crate) fn of_file(open: &OpenFile<'_>, expected: &FileEntry) -> Result<Self, Fault> {
        let (path, len, expected) = (PathBuf::from(open.path), open.len, expected.clone());
        let file = open.file.try_clone().map_err(|error| fault_at(open.path, "cannot read", &error))?;
        Self::start(open.path, move || check_open(&OpenFile { file, path: &path, len }, &expected))
    }

    fn start(path: &Path, prove: impl FnOnce() -> Result<(), Fault> + Send + 'static) -> Result<Self, Fault> {
        let thread = std::thread::Builder::new().name("sha256".into()).spawn(prove);
        thread.map(Self).map_err(|error| fault_at(path, "no thread to hash", &error))
    }

    /// Waits for the digest.
    ///
    /// # Errors
    /// `InvalidRequest` if the shard is not the file that the manifest describes.
    pub fn wait(self) -> Result<(), Fault> {
        self.0.join().map_err(|_| Fault::internal("the hashing thread panicked"))?
    }
}

impl ShardFile {
    /// Reads the shard at `path` into fresh memory and checks its length, header and SHA-256 (see [`ShardFile::read`]).
    ///
    /// # Errors
    /// `InvalidRequest` if it cannot be read or is not the file that `expected` describes.
    pub fn load(path: &Path, expected: &FileEntry, progress: impl FnMut(u64)) -> Result<Self, Fault> {
        let (shard, proof) = Self::read(path, expected, progress)?;
        proof.wait()?;
        Ok(shard)
    }

    /// Reads the shard at `path` into fresh memory and checks its length and header. Its SHA-256 is computed on a second
    /// thread, of the blocks that are already there, and may go on when this returns, so that converting the weights and
    /// warming up do not wait for it: where a CPU hashes more slowly than it reads (1.1 GB/s against 1.5 GB/s where this
    /// was measured), that is a third of the time. `progress` is told how many bytes have come so far.
    ///
    /// # Errors
    /// `InvalidRequest` if it cannot be read, or has another length than `expected`, or a wrong header.
    pub fn read(path: &Path, expected: &FileEntry, mut progress: impl FnMut(u64)) -> Result<(Self, Proof), Fault> {
        let at = |problem: String| Fault::invalid(format!("{}: {problem}", path.display()));
        let open = OpenFile::open(path)?;
        if open.len != expected.bytes {
            return Err(at(format!("it has {} bytes, the manifest says {}", open.len, expected.bytes)));
        }
        let len = usize::try_from(open.len).map_err(|_| at("it does not fit in memory".into()))?;
        // The header ends at a multiple of 64 bytes in shards of ours, so aligning the file aligns the tensors.
        let mut hashed = (Sha256::new(), 0);
        let bytes = filled(len, |memory| {
            hashed = read_and_hash(&open, memory, &mut progress)?;
            Ok(())
        })?;
        let (mut sha, done) = hashed;
        let rest = bytes.slice(done..);
        let (owned, expected) = (PathBuf::from(path), expected.sha256.clone());
        let proof = Proof::start(path, move || {
            sha.update(&rest);
            let digest = hex(&sha.finalize());
            if digest == expected {
                return Ok(());
            }
            let path = owned.display();
            Err(Fault::invalid(format!("{path}: its SHA-256 is {digest}, the manifest says {expected}: it is damaged")))
        })?;
        let header = Header::of_file(&bytes).map_err(at)?;
        Ok((Self { header, bytes }, proof))
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

/// Fills `memory` from the start of the file; returns the digest of its first bytes, and of how many.
fn read_and_hash(
    open: &OpenFile<'_>,
    memory: &mut [u8],
    progress: &mut impl FnMut(u64),
) -> Result<(Sha256, usize), Fault> {
    let blocks = memory.len().div_ceil(BLOCK_BYTES);
    let all_read = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Room for every block: the reader never waits for the hash.
        let (send, receive) = mpsc::sync_channel::<&[u8]>(blocks);
        let hash = scope.spawn(|| {
            let (mut sha, mut done) = (Sha256::new(), 0);
            for block in receive {
                if all_read.load(Ordering::Relaxed) {
                    break;
                }
                sha.update(block);
                done += block.len();
            }
            (sha, done)
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
        all_read.store(true, Ordering::Relaxed);
        hash.join().map_err(|_| Fault::internal("the hashing thread panicked"))
    })
}
