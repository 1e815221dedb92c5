//! What is asked of the tables. Times are milliseconds since 1970.

use crate::{Entry, Job, JobId, Name, Record, StoreError};
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { what: "its file, or the disk it is on".to_owned() },
            _ => Self::Unavailable { cause: error.to_string() },
        }
    }
}

type Asked<T> = Result<T, StoreError>;

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(column).map(Bytes::from)
}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// Behind those that are there.
    Behind,
    /// Instead of them: for so many milliseconds, if it is the last.
    Instead(Option<u64>),
}

/// Appends a record to a log that ends at `after`.
pub(super) fn append(file: &Connection, now: u64, log: &Name, after: u64, record: &[u8], place: Place) -> Asked<u64> {
    // Its end alone: an append must not get dearer with each that was before.
    let last =
        "SELECT position, coalesce(gone_at <= ?2, FALSE) FROM records WHERE log = ?1 ORDER BY position DESC LIMIT 1";
    let end = |row: &Row<'_>| Ok((row.get::<_, u64>(0)?, row.get::<_, bool>(1)?));
    let end = file.prepare_cached(last)?.query_row(params![log.as_str(), now], end).optional()?;
    let is_over = end.is_some_and(|(_, is_over)| is_over);
    let last = end.filter(|_| !is_over).map_or(0, |(last, _)| last);
    if last != after {
        return Err(StoreError::Conflict { last });
    }
    let keep = match place {
        Place::Behind if after == 0 => has_room(file).map(|()| None)?,
        Place::Behind => None,
        Place::Instead(keep) => keep,
    };
    if place != Place::Behind || is_over {
        remove(file, log)?;
    }
    let insert = "INSERT INTO records (log, bytes, gone_at) VALUES (?1, ?2, ?3)";
    file.prepare_cached(insert)?.execute(params![log.as_str(), record, keep.map(|keep| now + keep)])?;
    Ok(file.last_insert_rowid() as u64)
}

/// Keeps an eighth of the file for what is there already: a log that cannot be ended never makes room.
fn has_room(file: &Connection) -> Asked<()> {
    let pages = |pragma: &str| file.pragma_query_value(None, pragma, |row| row.get::<_, u64>(0));
    let (used, free, most) = (pages("page_count")?, pages("freelist_count")?, pages("max_page_count")?);
    match used.saturating_sub(free) > most - most / 8 {
        true => Err(StoreError::Full { what: "the file has room only for what is begun".to_owned() }),
        false => Ok(()),
    }
}

/// The records behind `after`.
pub(super) fn read(file: &Connection, now: u64, log: &Name, after: u64) -> Asked<Vec<Record>> {
    let select = "SELECT position, bytes FROM records
        WHERE log = ?1 AND position > ?2 AND coalesce(gone_at > ?3, TRUE) ORDER BY position";
    let (mut select, after) = (file.prepare_cached(select)?, after.min(i64::MAX as u64));
    let record = |row: &Row<'_>| Ok(Record { position: row.get(0)?, bytes: bytes(row, 1)? });
    let records = select.query_map(params![log.as_str(), after, now], record)?;
    Ok(records.collect::<Result<_, _>>()?)
}

/// The last record of each of the first `most` logs of a kind whose names come behind `after`.
pub(super) fn logs(
    file: &Connection,
    now: u64,
    (kind, after, most): (&str, &str, usize),
) -> Asked<Vec<(Name, Record)>> {
    // Of the rows of a group SQLite takes the one with the maximum for what is not grouped.
    let select = "SELECT log, max(position), bytes FROM records
        WHERE log > ?3 AND log < ?1 || '/' AND coalesce(gone_at > ?2, TRUE) GROUP BY log ORDER BY log LIMIT ?4";
    let mut select = file.prepare_cached(select)?;
    let log = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, Record { position: row.get(1)?, bytes: bytes(row, 2)? }));
    let logs: Vec<_> = select.query_map(params![kind, now, after, most as u64], log)?.collect::<Result<_, _>>()?;
    Ok(logs.into_iter().filter_map(|(log, record)| Some((Name::parse(&log)?, record))).collect())
}

/// Lets go of a log.
pub(super) fn remove(file: &Connection, log: &Name) -> Asked<()> {
    file.prepare_cached("DELETE FROM records WHERE log = ?1")?.execute([log.as_str()])?;
    Ok(())
}

/// Puts a job into a queue that holds fewer than `most`.
pub(super) fn push(file: &Connection, now: u64, queue: &Name, job: &[u8], most: u64) -> Asked<()> {
    if jobs(file, queue)? >= most {
        return Err(StoreError::Crowded { most });
    }
    has_room(file)?;
    let insert = "INSERT INTO jobs (queue, bytes, deliveries, due) VALUES (?1, ?2, 0, ?3)";
    file.prepare_cached(insert)?.execute(params![queue.as_str(), job, now])?;
    let count = "INSERT INTO queues VALUES (?1, 1) ON CONFLICT (queue) DO UPDATE SET jobs = jobs + 1";
    file.prepare_cached(count)?.execute([queue.as_str()])?;
    Ok(())
}

/// What was found in a queue.
pub(super) enum Taken {
    Job(Job),
    /// Nothing yet; a job may be taken then.
    DueAt(u64),
    Nothing,
}

/// Takes the job of a queue that has been due longest.
pub(super) fn take(file: &Connection, now: u64, queue: &Name, lease: u64) -> Asked<Taken> {
    let first = "SELECT id, due, deliveries, bytes FROM jobs WHERE queue = ?1 ORDER BY due, id LIMIT 1";
    let job = |row: &Row<'_>| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?, row.get::<_, u32>(2)?, bytes(row, 3)?));
    let first = file.prepare_cached(first)?.query_row([queue.as_str()], job).optional()?;
    let Some((id, due, deliveries, bytes)) = first else { return Ok(Taken::Nothing) };
    if due > now {
        return Ok(Taken::DueAt(due));
    }
    let deliveries = deliveries + 1;
    let take = "UPDATE jobs SET due = ?2, deliveries = ?3 WHERE id = ?1";
    file.prepare_cached(take)?.execute(params![id, now + lease, deliveries])?;
    Ok(Taken::Job(Job { id: JobId::new(queue, id, deliveries), number: id, bytes, deliveries }))
}

/// Says when a job may be taken next, if it is still held by who speaks.
pub(super) fn due(file: &Connection, job: &JobId, due: u64) -> Asked<()> {
    let Some((_, id, deliveries)) = job.parts() else { return Ok(()) };
    let update = "UPDATE jobs SET due = ?3 WHERE id = ?1 AND deliveries = ?2";
    file.prepare_cached(update)?.execute(params![id, deliveries, due])?;
    Ok(())
}

/// Lets go of a job, if it is still held by who speaks.
pub(super) fn done(file: &Connection, job: &JobId) -> Asked<()> {
    let Some((queue, id, deliveries)) = job.parts() else { return Ok(()) };
    let delete = "DELETE FROM jobs WHERE id = ?1 AND deliveries = ?2";
    if file.prepare_cached(delete)?.execute(params![id, deliveries])? > 0 {
        file.prepare_cached("UPDATE queues SET jobs = jobs - 1 WHERE queue = ?1")?.execute([queue.as_str()])?;
    }
    Ok(())
}

/// How many jobs a queue holds.
pub(super) fn jobs(file: &Connection, queue: &Name) -> Asked<u64> {
    let count = "SELECT jobs FROM queues WHERE queue = ?1";
    let count = file.prepare_cached(count)?.query_row([queue.as_str()], |row| row.get(0)).optional()?;
    Ok(count.unwrap_or(0))
}

/// A key's value.
pub(super) fn get(file: &Connection, now: u64, key: &Name) -> Asked<Option<Entry>> {
    let select = "SELECT revision, value FROM keys WHERE key = ?1 AND coalesce(gone_at > ?2, TRUE)";
    let entry = |row: &Row<'_>| Ok(Entry { revision: row.get(0)?, value: bytes(row, 1)? });
    Ok(file.prepare_cached(select)?.query_row(params![key.as_str(), now], entry).optional()?)
}

fn is_at(file: &Connection, now: u64, key: &Name, revision: u64) -> Asked<()> {
    let last = get(file, now, key)?.map_or(0, |entry| entry.revision);
    if last == revision { Ok(()) } else { Err(StoreError::Conflict { last }) }
}

/// Gives a key that stands at `revision` another value.
pub(super) fn set(
    file: &Connection,
    now: u64,
    key: &Name,
    revision: u64,
    value: &[u8],
    lifetime: Option<u64>,
) -> Asked<u64> {
    is_at(file, now, key, revision)?;
    // Replaced: a new row, whose number is a revision that never was.
    let replace = "REPLACE INTO keys (key, value, gone_at) VALUES (?1, ?2, ?3)";
    file.prepare_cached(replace)?.execute(params![key.as_str(), value, lifetime.map(|lifetime| now + lifetime)])?;
    Ok(file.last_insert_rowid() as u64)
}

/// Takes the value of a key that stands at `revision` away.
pub(super) fn unset(file: &Connection, now: u64, key: &Name, revision: u64) -> Asked<()> {
    is_at(file, now, key, revision)?;
    file.prepare_cached("DELETE FROM keys WHERE key = ?1")?.execute([key.as_str()])?;
    Ok(())
}

/// Keeps a blob.
pub(super) fn put_blob(file: &Connection, now: u64, name: &Name, bytes: &[u8]) -> Asked<()> {
    let replace = "REPLACE INTO blobs (name, bytes, kept_at) VALUES (?1, ?2, ?3)";
    file.prepare_cached(replace)?.execute(params![name.as_str(), bytes, now])?;
    Ok(())
}

/// A blob.
pub(super) fn blob(file: &Connection, name: &Name) -> Asked<Option<Bytes>> {
    let select = "SELECT bytes FROM blobs WHERE name = ?1";
    Ok(file.prepare_cached(select)?.query_row([name.as_str()], |row| bytes(row, 0)).optional()?)
}

/// Lets go of a blob.
pub(super) fn remove_blob(file: &Connection, name: &Name) -> Asked<()> {
    file.prepare_cached("DELETE FROM blobs WHERE name = ?1")?.execute([name.as_str()])?;
    Ok(())
}

/// Lets go of what is over: logs, keys, and blobs that were kept before `blobs_before`.
pub(super) fn sweep(file: &Connection, now: u64, blobs_before: u64) -> Asked<()> {
    file.prepare_cached("DELETE FROM records WHERE gone_at <= ?1")?.execute([now])?;
    file.prepare_cached("DELETE FROM keys WHERE gone_at <= ?1")?.execute([now])?;
    file.prepare_cached("DELETE FROM blobs WHERE kept_at < ?1")?.execute([blobs_before])?;
    Ok(())
}
