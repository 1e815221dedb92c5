//! Reading files in large pieces, with a limit on each.

use bytes::Bytes;
use stageline_base::Fault;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of one read or write: large enough that the number of calls does not matter, small enough to stay in a cache.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
/// Tensors that were read alone, and the first tensor of a shard, start at a multiple of this.
pub const ALIGN_BYTES: usize = 64;

/// A failure of the file system as a fault: `what` failed, at `path`.
pub fn fault_at(path: &Path, what: &str, error: &io::Error) -> Fault {
    Fault::invalid(format!("{what} {}: {error}", path.display()))
}

/// A file that may be there and cannot be opened, and what to do about it.
pub fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => ": let the user of this process read it",
        _ => "",
    };
    Fault::invalid(format!("cannot open {}: {error}{remedy}", path.display()))
}

/// An open file and its length, once and for all.
pub(crate) struct OpenFile<'a> {
    pub(crate) file: File,
    pub(crate) path: &'a Path,
    pub(crate) len: u64,
}

impl<'a> OpenFile<'a> {
    /// Opens a regular file.
    pub(crate) fn open(path: &'a Path) -> Result<Self, Fault> {
        let fault = |error: io::Error| unreadable(path, &error);
        // Looked at before it is opened: opening a pipe that nobody writes would wait for ever.
        if !path.metadata().map_err(fault)?.is_file() {
            return Err(Fault::invalid(format!("{} is not a file", path.display())));
        }
        let file = File::open(path).map_err(fault)?;
        let len = file.metadata().map_err(fault)?.len();
        Ok(Self { file, path, len })
    }

    /// Fills `buffer` from `offset`.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), Fault> {
        self.file.read_exact_at(buffer, offset).map_err(|error| fault_at(self.path, "cannot read", &error))
    }
}

/// A whole file, at most `limit` bytes.
///
/// # Errors
/// `InvalidRequest` if it cannot be read or is longer.
pub fn read_whole(path: &Path, limit: u64) -> Result<Vec<u8>, Fault> {
    let open = OpenFile::open(path)?;
    let too_long = || {
        let path = path.display();
        Fault::invalid(format!(
            "{path} is longer than {limit} bytes, the most that such a file may have: is it the right one?"
        ))
    };
    if open.len > limit {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(open.len).map_err(|_| too_long())?);
    // It may have grown since it was measured.
    let mut limited = open.file.take(limit + 1);
    limited.read_to_end(&mut bytes).map_err(|error| fault_at(path, "cannot read", &error))?;
    if bytes.len() as u64 > limit { Err(too_long()) } else { Ok(bytes) }
}

/// `len` bytes of memory that start at a multiple of [`ALIGN_BYTES`], filled by `fill` and shared from then on.
pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), Fault>) -> Result<Bytes, Fault> {
    let too_long = || Fault::invalid(format!("{len} bytes are more than fit in memory"));
    let room = len.checked_add(ALIGN_BYTES).ok_or_else(too_long)?;
    // `vec!` ends the process where it gets no memory, so ask first. It takes zeroed memory from the kernel as it is,
    // without a pass over it.
    Vec::<u8>::new().try_reserve_exact(room).map_err(|_| too_long())?;
    let mut memory = vec![0; room];
    let start = memory.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
    fill(&mut memory[start..start + len])?;
    Ok(Bytes::from(memory).slice(start..start + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned() {
        for len in [0, 1, 100, 5000, 1 << 20] {
            let bytes = filled(len, |memory| {
                memory.fill(7);
                Ok(())
            });
            let bytes = bytes.unwrap();
            assert_eq!(bytes.len(), len);
            assert!(bytes.iter().all(|&b| b == 7));
            assert_eq!(bytes.as_ptr() as usize % ALIGN_BYTES, 0);
        }
        assert!(filled(usize::MAX, |_| Ok(())).is_err());
        assert!(filled(usize::MAX / 4, |_| Ok(())).is_err());
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, [1; 100]).unwrap();
        assert_eq!(read_whole(&path, 100).unwrap().len(), 100);
        assert!(read_whole(&path, 99).unwrap_err().message.contains("longer than 99 bytes"));
        assert!(read_whole(dir.path(), 99).unwrap_err().message.contains("is not a file"));
    }
}
