//! Writing files such that nothing half-written looks whole.

use crate::folder::ModelFolder;
use crate::header::{Header, TensorShape};
use crate::read::{ALIGN_BYTES, fault_at};
use sha2::{Digest, Sha256};
use stageline_base::{Fault, hex};
use stageline_plan::FileEntry;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file that appears under its name only when it is complete and on the disk. Dropped before [`NewFile::finish`], it
/// leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    partial: PathBuf,
    sha: Sha256,
    bytes: u64,
}

impl NewFile {
    /// Starts the file `name` of `dir`; until it is finished it is called `.NAME.partial`.
    ///
    /// # Errors
    /// `InvalidRequest` if it cannot be created.
    pub fn create(dir: &Path, name: &str) -> Result<Self, Fault> {
        let (path, partial) = (dir.join(name), dir.join(format!(".{name}.partial")));
        let file = File::create(&partial).map_err(|error| fault_at(&path, "cannot create", &error))?;
        Ok(Self { file, path, partial, sha: Sha256::new(), bytes: 0 })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// `InvalidRequest` if the disk does not take them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.file.write_all(bytes).map_err(|error| fault_at(&self.path, "cannot write", &error))?;
        self.sha.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes sure that the bytes are on the disk and gives the file its name.
    ///
    /// # Errors
    /// `InvalidRequest` if either fails.
    pub fn finish(self) -> Result<FileEntry, Fault> {
        let written = self.file.sync_all().and_then(|()| std::fs::rename(&self.partial, &self.path));
        written.map_err(|error| fault_at(&self.path, "cannot write", &error))?;
        let file = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(FileEntry { file, bytes: self.bytes, sha256: hex(&self.sha.clone().finalize()) })
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After `finish` there is no such file any more.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// A tensor to be written: its name in the shard, and its name in the folder it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Name in the shard.
    pub name: String,
    /// Name in the source.
    pub source: String,
}

/// A shard that was written.
#[derive(Debug)]
pub struct WrittenShard {
    /// The file.
    pub entry: FileEntry,
    /// SHA-256 of each tensor's bytes as they were read from the source, by name in the shard.
    pub tensors: Vec<(String, [u8; 32])>,
}

/// Writes the tensors `pieces` of `source` as `dir`/`name`; `progress` is told of the bytes of each block.
///
/// The header is padded so that the tensors start at a multiple of 64 bytes, and those whose length is a multiple of 64
/// come first, then 32, 16 and so on: each starts at a multiple of 64, or of the largest power of two that divides its
/// length. (The format allows no holes that could align more.)
///
/// # Errors
/// `InvalidRequest` if a tensor is missing, or reading or writing fails; then nothing is left behind.
pub fn write_shard(
    source: &ModelFolder,
    pieces: &[Piece],
    dir: &Path,
    name: &str,
    progress: &mut dyn FnMut(u64),
) -> Result<WrittenShard, Fault> {
    let mut order: Vec<(&Piece, &TensorShape)> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let entry = source.entry(&piece.source);
        let missing = || Fault::invalid(format!("tensor {:?} is missing", piece.source));
        order.push((piece, &entry.ok_or_else(missing)?.shape));
    }
    order.sort_by_key(|(_, shape)| std::cmp::Reverse(alignment(shape)));
    let listed: Vec<(&str, &TensorShape)> = order.iter().map(|(piece, shape)| (piece.name.as_str(), *shape)).collect();
    let overflow = || Fault::invalid(format!("{name}: its size overflows"));
    let mut file = NewFile::create(dir, name)?;
    file.write(&Header::write(&listed, ALIGN_BYTES).ok_or_else(overflow)?)?;
    let mut tensors = Vec::with_capacity(order.len());
    for (piece, _) in order {
        let mut sha = Sha256::new();
        source.stream(&piece.source, |block| {
            sha.update(block);
            file.write(block)?;
            progress(block.len() as u64);
            Ok(())
        })?;
        tensors.push((piece.name.clone(), sha.finalize().into()));
    }
    Ok(WrittenShard { entry: file.finish()?, tensors })
}

/// The largest power of two, up to 64, that divides a tensor's length in bytes.
fn alignment(shape: &TensorShape) -> u64 {
    let bytes = shape.bytes().unwrap_or(1);
    1 << bytes.trailing_zeros().min(ALIGN_BYTES.trailing_zeros())
}
