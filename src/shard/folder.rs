//! The weights of a Hugging Face folder: one file, or several with an index.

use crate::files::Files;
use crate::header::{Header, TensorEntry};
use crate::load::TensorBytes;
use crate::names::{WEIGHTS, WEIGHTS_INDEX};
use crate::read::{BLOCK_BYTES, OpenFile, filled};
use crate::stranger::no_weights;
use serde::Deserialize;
use stageline_base::Fault;
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
    /// Tensors that the index names and no file holds, with the file where they should be.
    absent: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl ModelFolder {
    /// Opens `model.safetensors`, or else the files that `model.safetensors.index.json` names, and checks every header.
    /// Which tensors a file holds is what its header says: an index may be older than its files.
    ///
    /// # Errors
    /// `InvalidRequest` if neither is there, a header is wrong, the index names a file that is not in the folder, or two files
    /// hold tensors of one name that differ.
    pub fn open(dir: &Path) -> Result<Self, Fault> {
        let mut folder = Self { files: Vec::new(), tensors: BTreeMap::new(), absent: BTreeMap::new() };
        let files = Files::of_model(dir)?;
        if let Some(path) = files.find(WEIGHTS)? {
            folder.add(path)?;
            return Ok(folder);
        }
        let Some(index) = files.json(WEIGHTS_INDEX)? else { return Err(Fault::invalid(no_weights(dir))) };
        let index =
            Index::deserialize(index).map_err(|error| files.wrong(WEIGHTS_INDEX, &format!("is no index: {error}")))?;
        let named: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        if named.len() > MAX_FILES {
            return Err(files.wrong(WEIGHTS_INDEX, &format!("names {} files, more than {MAX_FILES}", named.len())));
        }
        for file in named {
            folder.add(files.expect(file.strip_prefix("./").unwrap_or(file))?)?;
        }
        folder.absent = index.weight_map;
        folder.absent.retain(|tensor, _| !folder.tensors.contains_key(tensor));
        Ok(folder)
    }

    /// Adds a file.
    fn add(&mut self, path: PathBuf) -> Result<(), Fault> {
        let open = OpenFile::open(&path)?;
        let header = Header::read(&open)?;
        let (number, file) = (self.files.len(), open.file);
        self.files.push((path, file));
        for (name, entry) in header.tensors {
            let new = (number, entry);
            match self.tensors.get(&name) {
                None => drop(self.tensors.insert(name, new)),
                Some(old) if self.equal(old, &new)? => {}
                Some((old, _)) => {
                    let [one, other] = [*old, number].map(|file| self.files[file].0.display());
                    return Err(Fault::invalid(format!(
                        "tensor {name:?} is in {one} and in {other}, and differs: fetch both files again"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The file in which the index says that tensor `name` is, if no file holds it.
    pub fn promised(&self, name: &str) -> Option<&str> {
        self.absent.get(name).map(String::as_str)
    }

    /// Whether tensors `one` and `other` have the same type, shape and bytes.
    ///
    /// # Errors
    /// `InvalidRequest` if either is missing or cannot be read.
    pub fn same(&self, one: &str, other: &str) -> Result<bool, Fault> {
        let [one, other] = [self.find(one)?, self.find(other)?].map(|(file, entry)| (file, entry.clone()));
        self.equal(&one, &other)
    }

    fn equal(
        &self,
        (one, first): &(usize, TensorEntry),
        (other, second): &(usize, TensorEntry),
    ) -> Result<bool, Fault> {
        if first.shape != second.shape {
            return Ok(false);
        }
        let (mut blocks, mut at) = ([vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]], 0);
        let bytes = first.bytes.end - first.bytes.start;
        while at < bytes {
            let len = (bytes - at).min(BLOCK_BYTES as u64) as usize;
            let [left, right] = &mut blocks;
            self.read_at(*one, &mut left[..len], first.bytes.start + at)?;
            self.read_at(*other, &mut right[..len], second.bytes.start + at)?;
            if left[..len] != right[..len] {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
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
        file.read_exact_at(memory, offset).map_err(|error| crate::read::fault_at(path, "cannot read", &error))
    }
}
