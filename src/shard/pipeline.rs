//! A pipeline folder: a manifest and the files it names.

use crate::disk::ShardOnDisk;
use crate::files::Files;
use crate::header::Header;
use crate::load::{Proof, ShardFile};
use crate::read::{OpenFile, unreadable};
use stageline_base::Fault;
use stageline_base::limits::MAX_CONFIG_BYTES;
use stageline_plan::{FileEntry, Manifest};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A folder that `split` wrote, its manifest read and checked.
#[derive(Clone, Debug)]
pub struct PipelineFolder {
    files: Files,
    manifest: Manifest,
}

impl PipelineFolder {
    /// Whether `dir` holds a manifest (and not, say, a model), be it one that cannot be read.
    ///
    /// # Errors
    /// `InvalidRequest` if nobody can say.
    pub fn is_at(dir: &Path) -> Result<bool, Fault> {
        match dir.join(Manifest::FILE).symlink_metadata() {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(unreadable(&dir.join(Manifest::FILE), &error)),
        }
    }

    /// Reads and checks the manifest of `dir`, and that every file it names is there with its length.
    ///
    /// # Errors
    /// `InvalidRequest` that says what is missing or wrong.
    pub fn open(dir: &Path) -> Result<Self, Fault> {
        let folder = Self::read(dir)?;
        let manifest = &folder.manifest;
        folder.check_lengths(manifest.stages.iter().map(|stage| &stage.shard).chain(&manifest.files))?;
        Ok(folder)
    }

    /// As [`Self::open`] for whoever serves `stage`: the other stages' shards may be elsewhere, and but for stage 0, where
    /// text comes in and out, the other files too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(dir: &Path, stage: usize) -> Result<Self, Fault> {
        let folder = Self::read(dir)?;
        let manifest = &folder.manifest;
        let texts = if stage == 0 { manifest.files.as_slice() } else { &[] };
        folder.check_lengths(manifest.stages.get(stage).map(|stage| &stage.shard).into_iter().chain(texts))?;
        Ok(folder)
    }

    fn read(dir: &Path) -> Result<Self, Fault> {
        let bytes = Files::of_model(dir)?.bytes(Manifest::FILE, MAX_CONFIG_BYTES)?.ok_or_else(|| {
            Fault::invalid(format!(
                "{} is not a pipeline folder: it holds no {}; make one with `stageline split`",
                dir.display(),
                Manifest::FILE
            ))
        })?;
        let at = |fault: Fault| Fault { message: format!("{}: {}", dir.display(), fault.message), ..fault };
        let manifest = Manifest::parse(&bytes).map_err(at)?;
        let stages = manifest.stages.iter().map(|stage| stage.shard.clone());
        let listed: Vec<FileEntry> = stages.chain(manifest.files.iter().cloned()).collect();
        Ok(Self { files: Files::of_manifest(dir, &listed), manifest })
    }

    fn check_lengths<'a>(&self, entries: impl Iterator<Item = &'a FileEntry>) -> Result<(), Fault> {
        for entry in entries {
            let path = self.path(entry)?;
            let len = path.metadata().map_err(|error| unreadable(&path, &error))?.len();
            if len != entry.bytes {
                let what = format!("has {len} bytes, the manifest says {}: it is damaged", entry.bytes);
                return Err(self.files.wrong(&entry.file, &what));
            }
        }
        Ok(())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.files.dir()
    }

    /// The manifest's files: its tokenizer.json and so on, each checked against its SHA-256 as it is read.
    pub fn files(&self) -> &Files {
        &self.files
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
        self.files.expect(&entry.file)
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
}
