//! The file: whose it is, and what is in it.

use super::{FileSettings, Flush};
use crate::StoreError;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a file of ours begins with, as SQLite's `application_id`: "SLST".
const APPLICATION: i64 = 0x534C_5354;
/// Version of the tables.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE records (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        log TEXT NOT NULL,
        bytes BLOB NOT NULL,
        gone_at INTEGER
    );
    CREATE INDEX records_by_log ON records (log, position);
    CREATE INDEX records_by_end ON records (gone_at) WHERE gone_at IS NOT NULL;
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        bytes BLOB NOT NULL,
        deliveries INTEGER NOT NULL,
        due INTEGER NOT NULL
    );
    CREATE INDEX jobs_by_due ON jobs (queue, due, id);
    CREATE TABLE queues (
        queue TEXT PRIMARY KEY,
        jobs INTEGER NOT NULL
    );
    CREATE TABLE keys (
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        value BLOB NOT NULL,
        gone_at INTEGER
    );
    CREATE INDEX keys_by_end ON keys (gone_at) WHERE gone_at IS NOT NULL;
    CREATE TABLE blobs (
        name TEXT PRIMARY KEY,
        bytes BLOB NOT NULL,
        kept_at INTEGER NOT NULL
    );
    CREATE INDEX blobs_by_age ON blobs (kept_at);
";

/// The file's connection, and the lock that says whose it is.
pub(super) fn open(path: &Path, settings: &FileSettings) -> Result<(Connection, File), StoreError> {
    let said = |cause: String| StoreError::Unavailable { cause: format!("{}: {cause}", path.display()) };
    // A device or a pipe would be opened, and something put beside it.
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(said("it is no file".to_owned()));
    }
    // Prompts and answers are in it: nobody else is to read them.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| said(format!("cannot be opened for writing: {error}")))?;
    // Another way to the same file is the same file.
    let links = file.metadata().map_or(1, |file| file.nlink());
    drop(file);
    let path = &path.canonicalize().map_err(|error| said(error.to_string()))?;
    if links > 1 {
        return Err(said("it is a hard link, and another process could open it by its other name: copy it".to_owned()));
    }
    let held = || StoreError::Held { file: path.display().to_string() };
    let lock = lock(path).map_err(said)?.ok_or_else(held)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| said(why(&error)))?;
    prepare(&connection, settings).map_err(said)?;
    Ok((connection, lock))
}

/// Takes the file for this process, if no other has it: by a file beside it, since SQLite's own locks come and go.
fn lock(path: &Path) -> Result<Option<File>, String> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside);
    let file = file.map_err(|error| format!("{} cannot be opened for writing: {error}", beside.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(format!("{} cannot be locked: {error}", beside.display())),
    }
}

fn why(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            "it is no store, or it is damaged: give another file, or put a copy back".to_owned()
        }
        Some(ErrorCode::DatabaseCorrupt) => damaged("SQLite cannot read it"),
        _ => error.to_string(),
    }
}

fn damaged(what: &str) -> String {
    format!("it is damaged ({what}): put a copy back, or move it away to begin anew")
}

/// Sets the connection up, once it is known whose the file is.
fn prepare(file: &Connection, settings: &FileSettings) -> Result<(), String> {
    let failed = |error: rusqlite::Error| why(&error);
    let number = |pragma: &str| file.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(failed);
    file.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables = file.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    let is_new = tables.map_err(failed)? == 0 && application == 0;
    if !is_new && application != APPLICATION {
        return Err("it is a database of something else: give another file".to_owned());
    }
    if !is_new && version > VERSION {
        return Err(format!(
            "it was written by a later version of stageline (its tables are of version {version}, these of {VERSION}): use that version, or another file"
        ));
    }
    let mode = file.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(format!(
            "its folder allows no write-ahead log (SQLite keeps to {mode:?}): use a local file system"
        ));
    }
    let flush = match settings.flush {
        Flush::EachCommit => "FULL",
        Flush::EverySecond => "NORMAL",
    };
    file.pragma_update(None, "synchronous", flush).map_err(failed)?;
    let pages = settings.max_bytes / number("page_size")?.max(512) as u64;
    // What is smaller than what the file has already is not taken, which is what is wanted: it may be read, and not grow.
    file.query_row(&format!("PRAGMA max_page_count = {}", pages.max(1)), [], |_| Ok(())).map_err(failed)?;
    if is_new {
        let begin =
            format!("BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {TABLES} COMMIT;");
        return file.execute_batch(&begin).map_err(failed);
    }
    let checked = file.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)).map_err(failed)?;
    if checked == "ok" { Ok(()) } else { Err(damaged(&checked)) }
}
