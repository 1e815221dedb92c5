//! A pipeline folder: a manifest and the files it names.

use crate::base::Fault;
use crate::base::limits::{MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES};
use crate::plan::{FileEntry, Manifest};
use crate::shard::disk::ShardOnDisk;
use crate::shard::header::Header;
use crate::shard::load::{Proof, ShardFile};
use crate::shard::names::inside;
use crate::shard::read::{OpenFile, read_whole};
use crate::shard::write::hex;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A folder that `split` wrote, its manifest read and checked.
#[derive(Clone, Debug)]
pub struct PipelineFolder {
    dir: PathBuf,
    manifest: Manifest,
}

impl PipelineFolder {
    /// Whether `dir` holds a manifest (and not, say, a model).
    pub fn is_at(dir: &Path) -> bool {
        dir.join(Manifest::FILE).is_file()
    }

    /// Reads and checks the manifest of `dir`, and that every file it names is there with its length.
    ///
    /// # Errors
    /// `InvalidRequest` that says what is missing or wrong.
    pub fn open(dir: &Path) -> Result<Self, Fault> {
        Self::open_with(dir, |_| true)
    }

    /// As [`Self::open`] for whoever serves `stage`: the other stages' shards may be elsewhere.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(dir: &Path, stage: usize) -> Result<Self, Fault> {
        Self::open_with(dir, |other| other == stage)
    }

    fn open_with(dir: &Path, is_needed: impl Fn(usize) -> bool) -> Result<Self, Fault> {
        if !Self::is_at(dir) {
            return Err(Fault::invalid(format!(
                "{} is not a pipeline folder: it holds no {}; make one with `stageline split`",
                dir.display(),
                Manifest::FILE
            )));
        }
        let bytes = read_whole(&inside(dir, Manifest::FILE)?, MAX_CONFIG_BYTES)?;
        let at = |fault: Fault| Fault { message: format!("{}: {}", dir.display(), fault.message), ..fault };
        let manifest = Manifest::parse(&bytes).map_err(at)?;
        let folder = Self { dir: dir.into(), manifest };
        let stages = folder.manifest.stages.iter().enumerate().filter(|(number, _)| is_needed(*number));
        for entry in stages.map(|(_, stage)| &stage.shard).chain(&folder.manifest.files) {
            let path = folder.path(entry)?;
            let len = path.metadata().map(|metadata| metadata.len());
            if !matches!(len, Ok(len) if len == entry.bytes) {
                return Err(Fault::invalid(format!(
                    "{} has {} bytes, the manifest says {}",
                    path.display(),
                    len.unwrap_or(0),
                    entry.bytes
                )));
            }
        }
        Ok(folder)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The path of a file that the manifest names.
    ///
    /// # Errors
    /// `InvalidRequest` if there is no such file in the folder.
    pub fn path(&self, entry: &FileEntry) -> Result<PathBuf, Fault> {
        inside(&self.dir, &entry.file)
    }

    /// Reads and checks the header of the shard of stage `stage`.
    ///
    /// # Errors
    /// `InvalidRequest` if there is no such stage or its header is wrong.
    pub fn stage_header(&self, stage: usize) -> Result<Header, Fault> {
        let path = self.path(self.shard(stage)?)?;
        Header::read(&OpenFile::open(&path)?)
    }

    /// Loads the shard of stage `stage`, checking its SHA-256 (see [`ShardFile::load`]).
    ///
    /// # Errors
    /// `InvalidRequest` if there is no such stage or its shard is damaged.
    pub fn load_stage(&self, stage: usize, progress: impl FnMut(u64)) -> Result<ShardFile, Fault> {
        let entry = self.shard(stage)?;
        ShardFile::load(&self.path(entry)?, entry, progress)
    }

    /// Reads the shard of stage `stage`; its SHA-256 comes later (see [`ShardFile::read`]).
    ///
    /// # Errors
    /// `InvalidRequest` if there is no such stage, or its shard cannot be read or has a wrong length or header.
    pub fn read_stage(&self, stage: usize, progress: impl FnMut(u64)) -> Result<(ShardFile, Proof), Fault> {
        let entry = self.shard(stage)?;
        ShardFile::read(&self.path(entry)?, entry, progress)
    }

    /// Opens the shard of stage `stage`, to be read tensor by tensor (see [`ShardOnDisk::open`]).
    ///
    /// # Errors
    /// As [`Self::read_stage`].
    pub fn open_stage(&self, stage: usize) -> Result<(ShardOnDisk, Proof), Fault> {
        let entry = self.shard(stage)?;
        ShardOnDisk::open(&self.path(entry)?, entry)
    }

    fn shard(&self, stage: usize) -> Result<&FileEntry, Fault> {
        let stages = &self.manifest.stages;
        let entry = stages.get(stage).map(|stage| &stage.shard);
        entry.ok_or_else(|| Fault::invalid(format!("there is no stage {stage}: the pipeline has {}", stages.len())))
    }

    /// The bytes of one of the manifest's other files (tokenizer.json, …), checked against its SHA-256; `None` if the
    /// manifest names no such file.
    ///
    /// # Errors
    /// `InvalidRequest` if it cannot be read or is damaged.
    pub fn file(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        let Some(entry) = self.manifest.files.iter().find(|entry| entry.file == name) else { return Ok(None) };
        let path = self.path(entry)?;
        let bytes = read_whole(&path, MAX_TOKENIZER_BYTES)?;
        if hex(&Sha256::digest(&bytes)) != entry.sha256 {
            return Err(Fault::invalid(format!("{} is damaged: its SHA-256 is not the manifest's", path.display())));
        }
        Ok(Some(bytes))
    }
}
