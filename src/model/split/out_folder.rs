//! A folder that appears whole or not at all.

use stageline_base::Fault;
use stageline_plan::Manifest;
use stageline_shard::PipelineFolder;
use stageline_shard::read::fault_at;
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The folder of a split that is under way: it is built beside its place, under a name that starts with a dot, and locked
/// there. Dropped before [`OutFolder::publish`], it is removed; what a killed split left is removed by the next one.
pub(super) struct OutFolder {
    out: PathBuf,
    building: PathBuf,
    parent: PathBuf,
    /// Held open for its lock, which ends with the process however that ends.
    _lock: File,
}

impl OutFolder {
    /// Starts the folder that is to be `out`, which may be absent, empty, or a pipeline folder without other files.
    pub(super) fn create(out: &Path) -> Result<Self, Fault> {
        let name = out.file_name().ok_or_else(|| {
            Fault::invalid(format!("{} does not name a folder to write; give it a name of its own", out.display()))
        })?;
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        files_to_replace(out)?;
        fs::create_dir_all(&parent).map_err(|error| fault_at(&parent, "cannot create", &error))?;
        let building = parent.join(format!(".{}.partial", name.to_string_lossy()));
        let fault = |error| fault_at(&building, "cannot create", &error);
        match fs::create_dir(&building) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(fault(error)),
            _ => {}
        }
        let lock = lock(&building)
            .map_err(fault)?
            .ok_or_else(|| Fault::invalid(format!("{} is being written by another split", out.display())))?;
        let folder = Self { out: out.into(), building, parent, _lock: lock };
        clear(&folder.building).map_err(|error| fault_at(&folder.building, "cannot empty", &error))?;
        Ok(folder)
    }

    /// Where to build.
    pub(super) fn building(&self) -> &Path {
        &self.building
    }

    /// Puts the folder in its place, instead of the pipeline that was there.
    pub(super) fn publish(self) -> Result<(), Fault> {
        let fault = |error| fault_at(&self.out, "cannot write", &error);
        sync(&self.building).map_err(fault)?;
        // The manifest goes first and comes last: what is neither the old nor the new pipeline has none.
        if let Some(files) = files_to_replace(&self.out)? {
            for name in [Manifest::FILE.to_owned()].into_iter().chain(files) {
                match fs::remove_file(self.out.join(name)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(fault(error)),
                    _ => {}
                }
            }
        }
        // Renaming onto a folder needs it empty, and is atomic.
        fs::rename(&self.building, &self.out).map_err(fault)?;
        sync(&self.parent).map_err(fault)
    }
}

impl Drop for OutFolder {
    fn drop(&mut self) {
        // After `publish` there is no such folder any more.
        let _ = clear(&self.building).and_then(|()| fs::remove_dir(&self.building));
    }
}

/// The files of the pipeline at `out`, if there is one; `None` if `out` is absent or empty.
///
/// Anything else is somebody's, and refused.
fn files_to_replace(out: &Path) -> Result<Option<BTreeSet<String>>, Fault> {
    let listing = match fs::read_dir(out) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault_at(out, "cannot write", &error)),
    };
    let mut present = BTreeSet::new();
    for entry in listing {
        let entry = entry.map_err(|error| fault_at(out, "cannot list", &error))?;
        present.insert(entry.file_name().to_string_lossy().into_owned());
    }
    if present.is_empty() {
        return Ok(None);
    }
    let refuse = |what: String| {
        Fault::invalid(format!("{} is not empty and {what}: nothing was changed; choose another folder", out.display()))
    };
    if !PipelineFolder::is_at(out)? {
        return Err(refuse("holds no pipeline".into()));
    }
    let folder =
        PipelineFolder::open(out).map_err(|fault| refuse(format!("holds no whole pipeline ({})", fault.message)))?;
    let manifest = folder.manifest();
    let shards = manifest.stages.iter().map(|stage| &stage.shard);
    let files: BTreeSet<String> = shards.chain(&manifest.files).map(|entry| entry.file.clone()).collect();
    if let Some(other) = present.iter().find(|name| *name != Manifest::FILE && !files.contains(*name)) {
        return Err(refuse(format!("holds {other:?}, which is not the pipeline's")));
    }
    Ok(Some(files))
}

/// Locks a folder; `None` if another process has it.
fn lock(dir: &Path) -> std::io::Result<Option<File>> {
    let file = File::open(dir)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // It may have been put in its place, or removed, by its owner before the lock was free.
    let same = fs::symlink_metadata(dir).is_ok_and(|now| file.metadata().is_ok_and(|then| now.ino() == then.ino()));
    Ok(same.then_some(file))
}

/// Removes the files of a folder that this module built: it has no folders in it.
fn clear(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Puts a folder's names on the disk.
fn sync(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("a/b");
        let folder = OutFolder::create(&out).unwrap();
        fs::write(folder.building().join("x"), "1").unwrap();
        assert!(OutFolder::create(&out).is_err_and(|fault| fault.message.contains("another split")));
        assert!(!out.exists());
        drop(folder);
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 0);
        let folder = OutFolder::create(&out).unwrap();
        fs::write(folder.building().join("x"), "1").unwrap();
        folder.publish().unwrap();
        assert_eq!(fs::read(out.join("x")).unwrap(), b"1");
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_split_left_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".out.partial")).unwrap();
        fs::write(root.path().join(".out.partial/stage-0.safetensors"), "half").unwrap();
        let folder = OutFolder::create(&root.path().join("out")).unwrap();
        assert_eq!(fs::read_dir(folder.building()).unwrap().count(), 0);
    }

    #[test]
    fn somebody_elses_folder_is_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("notes"), "mine").unwrap();
        let refused = |out: &Path| OutFolder::create(out).err().unwrap().message;
        assert!(refused(root.path()).contains("is not empty and holds no pipeline"));
        assert!(refused(&root.path().join("notes")).contains("cannot write"));
        assert!(refused(Path::new("/")).contains("does not name a folder"));
        fs::write(root.path().join(Manifest::FILE), "{}").unwrap();
        assert!(refused(root.path()).contains("holds no whole pipeline"));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        OutFolder::create(&empty).unwrap().publish().unwrap();
    }
}
