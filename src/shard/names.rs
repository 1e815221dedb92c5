//! Names of files, and where they may lead.

use crate::base::Fault;
use crate::shard::read::fault_at;
use std::path::{Path, PathBuf};

/// A model's weights in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// The index of a model's weights in several files.
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// The file of stage `stage` of `stages`, numbered so that a listing shows the stages in order.
pub fn shard_name(stage: usize, stages: usize) -> String {
    let width = stages.saturating_sub(1).to_string().len();
    format!("stage-{stage:0width$}.safetensors")
}

/// The real path of the regular file `name` of `dir`, which may be a link, but not one that leads out of the folder.
///
/// A Hugging Face cache keeps a model as links: `…/snapshots/REVISION/NAME` leads to `…/blobs/DIGEST`. So for a folder in
/// `snapshots`, or one in that, its `blobs` count as inside.
///
/// # Errors
/// `InvalidRequest` if `name` holds a folder, leads out, is absent or is no regular file.
pub fn inside(dir: &Path, name: &str) -> Result<PathBuf, Fault> {
    let path = dir.join(name);
    let mut parts = Path::new(name).components();
    let plain =
        matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(part)), None) if part == name);
    if !plain || name.contains('\0') {
        let name: String = name.chars().take(120).collect();
        return Err(Fault::invalid(format!("{}: {name:?} is not the name of a file in this folder", dir.display())));
    }
    let home = dir.canonicalize().map_err(|error| fault_at(dir, "cannot open", &error))?;
    let real = path.canonicalize().map_err(|error| fault_at(&path, "cannot open", &error))?;
    // A model folder, or a folder in one (1_Pooling).
    let mut above = home.ancestors().skip(1).take(2);
    let snapshots = above.find(|folder| folder.file_name().is_some_and(|name| name == "snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|cache| cache.join("blobs"));
    let parent = real.parent();
    if parent != Some(home.as_path()) && (blobs.is_none() || parent != blobs.as_deref()) {
        return Err(Fault::invalid(format!("{} leads out of its folder, to {}", path.display(), real.display())));
    }
    if !real.is_file() {
        return Err(Fault::invalid(format!("{} is not a file", path.display())));
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn shards_list_in_order() {
        assert_eq!(shard_name(0, 1), "stage-0.safetensors");
        assert_eq!(shard_name(9, 10), "stage-9.safetensors");
        assert_eq!(shard_name(2, 11), "stage-02.safetensors");
        assert!(crate::plan::manifest::is_file_name(&shard_name(1023, 1024)));
    }

    #[test]
    fn a_name_stays_in_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("model");
        fs::create_dir(&dir).unwrap();
        fs::write(root.path().join("secret"), "x").unwrap();
        fs::write(dir.join("real"), "x").unwrap();
        fs::create_dir(dir.join("folder")).unwrap();
        symlink("real", dir.join("link")).unwrap();
        symlink("../secret", dir.join("out")).unwrap();
        assert!(inside(&dir, "real").is_ok());
        assert!(inside(&dir, "link").is_ok());
        let absolute = root.path().join("secret");
        for bad in [
            "../secret",
            "",
            ".",
            "..",
            "folder",
            "out",
            "./real",
            "real/",
            "folder/../real",
            absolute.to_str().unwrap(),
        ] {
            let fault = inside(&dir, bad).unwrap_err();
            assert_eq!(fault.class, crate::base::FaultClass::InvalidRequest, "{bad}");
        }
        assert!(inside(&dir, "absent").unwrap_err().message.contains("No such file"));
        assert!(inside(&dir, "out").unwrap_err().message.contains("leads out of its folder"));
    }

    #[test]
    fn links_of_a_hub_cache_lead_to_its_blobs() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("snapshots/abc");
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir(root.path().join("blobs")).unwrap();
        fs::write(root.path().join("blobs/12"), "x").unwrap();
        symlink("../../blobs/12", dir.join("config.json")).unwrap();
        symlink("../../blobs/12", root.path().join("config.json")).unwrap();
        fs::create_dir(dir.join("1_Pooling")).unwrap();
        symlink("../../../blobs/12", dir.join("1_Pooling/config.json")).unwrap();
        assert!(inside(&dir, "config.json").is_ok());
        assert!(inside(&dir.join("1_Pooling"), "config.json").is_ok());
        assert!(inside(root.path(), "config.json").is_err());
    }
}
