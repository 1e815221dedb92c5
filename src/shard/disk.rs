//! A shard that stays on disk: its tensors are read into memory of whoever asks, its digest by a thread of its own.

use crate::header::{Header, TensorEntry};
use crate::load::{Proof, TensorBytes};
use crate::read::{OpenFile, fault_at, filled};
use stageline_base::Fault;
use stageline_plan::FileEntry;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An open shard. Nothing is mapped: a file that shrinks is an error, not a signal.
#[derive(Debug)]
pub struct ShardOnDisk {
    file: File,
    path: PathBuf,
    header: Header,
}

impl ShardOnDisk {
    /// Opens the shard at `path` and checks its length and header. Its SHA-256 is computed meanwhile, from the page cache
    /// that whoever loads it fills.
    ///
    /// # Errors
    /// `InvalidRequest` if it cannot be read, or has another length than `expected`, or a wrong header.
    pub fn open(path: &Path, expected: &FileEntry) -> Result<(Self, Proof), Fault> {
        let open = OpenFile::open(path)?;
        if open.len != expected.bytes {
            let (len, path) = (open.len, path.display());
            return Err(Fault::invalid(format!("{path}: it has {len} bytes, the manifest says {}", expected.bytes)));
        }
        let header = Header::read(&open)?;
        let proof = Proof::of_file(&open, expected)?;
        Ok((Self { file: open.file, path: path.into(), header }, proof))
    }

    /// What the shard holds.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the header says of tensor `name`.
    ///
    /// # Errors
    /// `InvalidRequest` if it is missing.
    pub fn entry(&self, name: &str) -> Result<&TensorEntry, Fault> {
        let entry = self.header.tensors.get(name);
        entry.ok_or_else(|| Fault::invalid(format!("tensor {name:?} is missing in {}", self.path.display())))
    }

    /// Fills `out` with the bytes of tensor `name` from `at` on.
    ///
    /// # Errors
    /// `InvalidRequest` if it is missing, shorter, or cannot be read.
    pub fn read(&self, name: &str, at: u64, out: &mut [u8]) -> Result<(), Fault> {
        let place = self.entry(name)?.place(name, at, out.len())?;
        self.file.read_exact_at(out, place).map_err(|error| fault_at(&self.path, "cannot read", &error))
    }

    /// Tensor `name`, read into memory of its own.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn tensor(&self, name: &str) -> Result<TensorBytes, Fault> {
        let entry = self.entry(name)?;
        let len = usize::try_from(entry.bytes.end - entry.bytes.start);
        let len = len.map_err(|_| Fault::invalid(format!("tensor {name:?} does not fit in memory")))?;
        let bytes = filled(len, |memory| self.read(name, 0, memory))?;
        Ok(TensorBytes { dtype: entry.shape.dtype, shape: entry.shape.shape.clone(), bytes })
    }
}
