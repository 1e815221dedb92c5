//! The one way to the files of a model's or a pipeline's folder.
//!
//! Absent is not unreadable: a file that is there and cannot be read, or is not what its name says, is an error. What is
//! hashed is what is used: a file is read once, and its bytes are checked and handed out.

use crate::read::{read_whole, unreadable};
use crate::stranger::no_tokenizer;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use stageline_base::Fault;
use stageline_base::hex;
use stageline_base::limits::MAX_CONFIG_BYTES;
use stageline_plan::{FileEntry, Manifest};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// How a Git LFS pointer begins.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// File systems of the kernel, whose "files" are the machine's secrets and never a model's.
const NOT_STORAGE: [&str; 2] = ["/proc", "/sys"];

/// The files of a folder, by name.
///
/// A name is one of this very folder: never `..`, a path or a folder. But the file may be a link that leads anywhere: to a
/// download cache's blobs, a mounted volume's `..data`, another disk.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
    /// In a pipeline's folder only these count.
    listed: Option<Vec<FileEntry>>,
}

impl Files {
    /// The files of a model's folder: all that are there.
    ///
    /// # Errors
    /// `InvalidRequest` if `dir` is not there or no folder.
    pub fn of_model(dir: &Path) -> Result<Self, Fault> {
        let found = dir.metadata().map_err(|error| unreadable(dir, &error))?;
        if !found.is_dir() {
            return Err(Fault::invalid(format!("{} is not a folder: name the folder that it is in", dir.display())));
        }
        Ok(Self { dir: dir.into(), listed: None })
    }

    /// The files of a pipeline's folder: those that its manifest lists, with the bytes that it says. Whatever else lies
    /// there does not exist.
    pub fn of_manifest(dir: &Path, listed: &[FileEntry]) -> Self {
        Self { dir: dir.into(), listed: Some(listed.to_vec()) }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files of the folder `name` in this one; `None` if it is absent, as every folder is to a manifest.
    ///
    /// # Errors
    /// `InvalidRequest` if `name` is no plain name, or what is there is no folder that can be reached.
    pub fn folder(&self, name: &str) -> Result<Option<Self>, Fault> {
        let dir = self.place(name)?;
        let found = if self.listed.is_some() { None } else { reach(&dir)? };
        match found {
            None => Ok(None),
            Some(found) if found.is_dir() => Ok(Some(Self { dir, listed: None })),
            Some(_) => Err(self.wrong(name, "is not a folder: fetch the model again")),
        }
    }

    /// Where the file `name` is; `None` if it is absent.
    ///
    /// # Errors
    /// `InvalidRequest` if `name` is no plain name, or what is there is no file that can be reached.
    pub fn find(&self, name: &str) -> Result<Option<PathBuf>, Fault> {
        let path = self.place(name)?;
        if self.listed.as_ref().is_some_and(|listed| !listed.iter().any(|entry| entry.file == name)) {
            return Ok(None);
        }
        match reach(&path)? {
            None => Ok(None),
            Some(found) if found.is_file() => Ok(Some(path)),
            Some(found) if found.is_dir() => {
                Err(self.wrong(name, "is not a file, but a folder: put the file in its place, or remove it"))
            }
            Some(_) => Err(self.wrong(name, "is not a file: put the file in its place, or remove it")),
        }
    }

    /// As [`Self::find`] for a file that must be there.
    ///
    /// # Errors
    /// As [`Self::find`], and if it is absent.
    pub fn expect(&self, name: &str) -> Result<PathBuf, Fault> {
        self.find(name)?.ok_or_else(|| self.absent(name))
    }

    /// The bytes of the file `name`, at most `limit` of them; `None` if it is absent. In a pipeline's folder they are those
    /// that the manifest says, or an error.
    ///
    /// # Errors
    /// `InvalidRequest` that names the file and what to do, if it is there and cannot be read, is longer, or is not the
    /// manifest's.
    pub fn bytes(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Fault> {
        let Some(listed) = &self.listed else {
            let bytes = self.find(name)?.map(|path| read_whole(&path, limit)).transpose()?;
            return match bytes {
                Some(bytes) if bytes.starts_with(LFS_POINTER) => {
                    Err(self.wrong(name, "is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"))
                }
                bytes => Ok(bytes),
            };
        };
        let Some(entry) = listed.iter().find(|entry| entry.file == name) else { return Ok(None) };
        let bytes = read_whole(&self.expect(name)?, limit)?;
        let sha256 = hex(&Sha256::digest(&bytes));
        if bytes.len() as u64 != entry.bytes || sha256 != entry.sha256 {
            let what = format!(
                "is not the file that {} lists: its SHA-256 is {sha256}, the manifest says {}; restore it, or split the \
                 model again",
                Manifest::FILE,
                entry.sha256
            );
            return Err(self.wrong(name, &what));
        }
        Ok(Some(bytes))
    }

    /// The text of the file `name`, at most [`MAX_CONFIG_BYTES`] long, without a mark of its byte order; `None` if it is absent.
    ///
    /// # Errors
    /// As [`Self::bytes`], and if it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        let Some(bytes) = self.bytes(name, MAX_CONFIG_BYTES)? else { return Ok(None) };
        let not_text = |error| self.wrong(name, &format!("is not UTF-8 text ({error}): fetch it again, or remove it"));
        let bytes = without_mark(&bytes).to_vec();
        String::from_utf8(bytes).map(Some).map_err(|error| not_text(error.utf8_error()))
    }

    /// The JSON value in the file `name`, at most [`MAX_CONFIG_BYTES`] long; `None` if it is absent.
    ///
    /// # Errors
    /// As [`Self::text`], and if it is not JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>, Fault> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let not_json = |error| self.wrong(name, &format!("is not JSON: {error}; fetch it again, or mend it"));
        serde_json::from_str(&text).map(Some).map_err(not_json)
    }

    /// The JSON object in the file `name`; `None` if it is absent.
    ///
    /// # Errors
    /// As [`Self::json`], and if it is another value.
    pub fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, Fault> {
        match self.json(name)? {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(self.wrong(name, "is not a JSON object: fetch it again, or mend it")),
        }
    }

    /// An error about the file `name`: its path, and `what` is wrong with it and to be done.
    pub fn wrong(&self, name: &str, what: &str) -> Fault {
        Fault::invalid(format!("{} {what}", self.dir.join(name).display()))
    }

    /// The error that the file `name` is not there.
    pub fn absent(&self, name: &str) -> Fault {
        let listed = self.listed.iter().flatten().any(|entry| entry.file == name);
        if self.listed.is_none() && name == "tokenizer.json" {
            return self.wrong(name, &format!("is not there: {}", no_tokenizer(&self.dir)));
        }
        self.wrong(
            name,
            match (&self.listed, listed) {
                (Some(_), true) => "is not there: the manifest names it; restore it, or split the model again",
                (Some(_), false) => "is not one of the manifest's files: split the model again",
                (None, _) => "is not there: fetch the model again",
            },
        )
    }

    fn place(&self, name: &str) -> Result<PathBuf, Fault> {
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
        if plain && !name.contains('\0') {
            return Ok(self.dir.join(name));
        }
        let name: String = name.chars().take(120).collect();
        Err(Fault::invalid(format!("{}: {name:?} is not the name of a file in this folder", self.dir.display())))
    }
}

/// What a file holds behind the mark that some editors put first.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// What is at `path`, links followed; `None` if nothing is.
fn reach(path: &Path) -> Result<Option<Metadata>, Fault> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
        Ok(_) => {}
    }
    let real = path.canonicalize().map_err(|error| match path.read_link() {
        Ok(to) if error.kind() == ErrorKind::NotFound => {
            let (path, to) = (path.display(), to.display());
            Fault::invalid(format!(
                "{path} is a link to {to}, and nothing is there: fetch that file again, or remove the link"
            ))
        }
        _ => unreadable(path, &error),
    })?;
    if NOT_STORAGE.iter().any(|root| real.starts_with(root)) {
        let (path, real) = (path.display(), real.display());
        return Err(Fault::invalid(format!("{path} leads to {real}, where no model's files are: remove the link")));
    }
    real.metadata().map(Some).map_err(|error| unreadable(path, &error))
}

#[cfg(test)]
mod tests;
