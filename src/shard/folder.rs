//! The weights of a Hugging Face folder: one file, or several with an index.

use crate::base::Fault;
use crate::base::limits::MAX_CONFIG_BYTES;
use crate::shard::header::{Header, TensorEntry};
use crate::shard::load::TensorBytes;
use crate::shard::names::{WEIGHTS, WEIGHTS_INDEX, inside};
use crate::shard::read::{BLOCK_BYTES, OpenFile, filled, read_whole};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Most files of an index.
const MAX_FILES: usize = 4096;

/// The tensors of a model folder, read on demand by name. Nothing is mapped: a file that shrinks is an error, not a signal.
#[derive(Debug)]
pub struct ModelFolder {
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, (usize, TensorEntry)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl ModelFolder {
    /// Opens `model.safetensors`, or else the files that `model.safetensors.index.json` names, and checks every header.
    ///
    /// # Errors
    /// `InvalidRequest` if neither is there, a header is wrong, the index points outside the folder, or it and the files
    /// do not agree on which tensor is where.
    pub fn open(dir: &Path) -> Result<Self, Fault> {
        let mut folder = Self { files: Vec::new(), tensors: BTreeMap::new() };
        let present = |name: &str| dir.join(name).symlink_metadata().is_ok();
        if present(WEIGHTS) {
            folder.add(dir, WEIGHTS, None)?;
            return Ok(folder);
        }
        if !present(WEIGHTS_INDEX) {
            return Err(Fault::invalid(format!("{} holds neither {WEIGHTS} nor {WEIGHTS_INDEX}", dir.display())));
        }
        let path = inside(dir, WEIGHTS_INDEX)?;
        let index: Index = serde_json::from_slice(&read_whole(&path, MAX_CONFIG_BYTES)?)
            .map_err(|error| Fault::invalid(format!("{}: {error}", path.display())))?;
        let mut files: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (tensor, file) in &index.weight_map {
            files.entry(file).or_default().insert(tensor);
        }
        if files.len() > MAX_FILES {
            return Err(Fault::invalid(format!(
                "{} names {} files, more than {MAX_FILES}",
                path.display(),
                files.len()
            )));
        }
        for (file, tensors) in files {
            folder.add(dir, file, Some(tensors))?;
        }
        Ok(folder)
    }

    /// Adds a file, which must hold just the tensors that the index expects in it.
    fn add(&mut self, dir: &Path, name: &str, expected: Option<BTreeSet<&str>>) -> Result<(), Fault> {
        let path = inside(dir, name)?;
        let open = OpenFile::open(&path)?;
        let header = Header::read(&open)?;
        if let Some(expected) = expected {
            let at = |problem: String| Fault::invalid(format!("{}: {problem}", path.display()));
            if let Some(absent) = expected.iter().find(|name| !header.tensors.contains_key(**name)) {
                return Err(at(format!("tensor {absent:?} is missing: the index names it here")));
            }
            if let Some(extra) = header.tensors.keys().find(|name| !expected.contains(name.as_str())) {
                return Err(at(format!("tensor {extra:?} is not in the index")));
            }
        }
        let file = open.file;
        let number = self.files.len();
        self.tensors.extend(header.tensors.into_iter().map(|(name, entry)| (name, (number, entry))));
        self.files.push((path, file));
        Ok(())
    }

    /// Every tensor: its name and what its header says.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.tensors.iter().map(|(name, (_, entry))| (name.as_str(), entry))
    }

    /// What the header says of tensor `name`.
    pub fn entry(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name).map(|(_, entry)| entry)
    }

    /// Reads tensor `name` into memory of its own, aligned to 64 bytes.
    ///
    /// # Errors
    /// `InvalidRequest` if it is missing or cannot be read.
    pub fn tensor(&self, name: &str) -> Result<TensorBytes, Fault> {
        let (file, entry) = self.find(name)?;
        let too_long = || Fault::invalid(format!("tensor {name:?} does not fit in memory"));
        let len = usize::try_from(entry.bytes.end - entry.bytes.start).map_err(|_| too_long())?;
        let bytes = filled(len, |memory| self.read_at(file, memory, entry.bytes.start))?;
        Ok(TensorBytes { dtype: entry.shape.dtype, shape: entry.shape.shape.clone(), bytes })
    }

    /// Fills `out` with the bytes of tensor `name` from `at` on.
    ///
    /// # Errors
    /// `InvalidRequest` if it is missing, shorter, or cannot be read.
    pub fn read(&self, name: &str, at: u64, out: &mut [u8]) -> Result<(), Fault> {
        let (file, entry) = self.find(name)?;
        self.read_at(file, out, entry.place(name, at, out.len())?)
    }

    /// Hands the bytes of tensor `name` to `take`, block by block.
    ///
    /// # Errors
    /// `InvalidRequest` if it is missing or cannot be read; what `take` returns.
    pub fn stream(&self, name: &str, mut take: impl FnMut(&[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
        let (file, entry) = self.find(name)?;
        let (mut block, mut at) = (vec![0; BLOCK_BYTES], entry.bytes.start);
        while at < entry.bytes.end {
            let len = (entry.bytes.end - at).min(BLOCK_BYTES as u64) as usize;
            self.read_at(file, &mut block[..len], at)?;
            take(&block[..len])?;
            at += len as u64;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<(usize, &TensorEntry), Fault> {
        let (file, entry) =
            self.tensors.get(name).ok_or_else(|| Fault::invalid(format!("tensor {name:?} is missing")))?;
        Ok((*file, entry))
    }

    fn read_at(&self, file: usize, memory: &mut [u8], offset: u64) -> Result<(), Fault> {
        let (path, file) = &self.files[file];
        file.read_exact_at(memory, offset).map_err(|error| crate::shard::read::fault_at(path, "cannot read", &error))
    }
}
