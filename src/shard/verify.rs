//! Proof that a file on the disk is what it should be.

use crate::header::{Header, TensorShape};
use crate::read::{BLOCK_BYTES, OpenFile};
use sha2::{Digest, Sha256};
use stageline_base::Fault;
use stageline_base::hex;
use stageline_plan::FileEntry;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// What a tensor of a file is: its shape, and the SHA-256 of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDigest {
    /// Element type and dimensions.
    pub shape: TensorShape,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// Reads the whole file at `path` again, checks its length and SHA-256 against `expected`, and returns what its header
/// lists and its bytes hold.
///
/// # Errors
/// `InvalidRequest` if it cannot be read or is not as expected.
pub fn tensor_digests(path: &Path, expected: &FileEntry) -> Result<BTreeMap<String, TensorDigest>, Fault> {
    let open = OpenFile::open(path)?;
    let header = Header::read(&open)?;
    let mut whole = Sha256::new();
    hash_range(&open, 0..header.data_start, |block| whole.update(block))?;
    let mut digests = BTreeMap::new();
    for (name, entry) in header.in_file_order() {
        let mut sha = Sha256::new();
        hash_range(&open, entry.bytes.clone(), |block| {
            whole.update(block);
            sha.update(block);
        })?;
        digests.insert(name.clone(), TensorDigest { shape: entry.shape.clone(), sha256: sha.finalize().into() });
    }
    matches(&open, expected, &hex(&whole.finalize()))?;
    Ok(digests)
}

/// Reads the whole file at `path` and checks its length and SHA-256 against `expected`.
///
/// # Errors
/// `InvalidRequest` if it cannot be read or is not as expected.
pub fn check_file(path: &Path, expected: &FileEntry) -> Result<(), Fault> {
    check_open(&OpenFile::open(path)?, expected)
}

/// As [`check_file`] for a file that is open: what somebody else has put in its place since plays no part.
pub(crate) fn check_open(open: &OpenFile<'_>, expected: &FileEntry) -> Result<(), Fault> {
    let mut whole = Sha256::new();
    hash_range(open, 0..open.len, |block| whole.update(block))?;
    matches(open, expected, &hex(&whole.finalize()))
}

fn matches(open: &OpenFile<'_>, expected: &FileEntry, sha256: &str) -> Result<(), Fault> {
    if open.len == expected.bytes && sha256 == expected.sha256 {
        return Ok(());
    }
    Err(Fault::invalid(format!(
        "{} has {} bytes with SHA-256 {sha256}, the manifest says {} bytes with {}: it is damaged",
        open.path.display(),
        open.len,
        expected.bytes,
        expected.sha256
    )))
}

fn hash_range(open: &OpenFile<'_>, range: Range<u64>, mut take: impl FnMut(&[u8])) -> Result<(), Fault> {
    let (mut block, mut at) = (vec![0; BLOCK_BYTES], range.start);
    while at < range.end {
        let len = (range.end - at).min(BLOCK_BYTES as u64) as usize;
        open.read_at(&mut block[..len], at)?;
        take(&block[..len]);
        at += len as u64;
    }
    Ok(())
}
