//! A store in a file: what is there after its process, whose it is, and what it says of a file that it cannot use.

use super::{file_settings, name};
use bytes::Bytes;
use futures::future::join_all;
use stageline_store::{FileSettings, FileStore, Flush, Store, StoreError};
use std::path::Path;
use std::time::Duration;

fn open(path: &Path) -> Result<FileStore, StoreError> {
    FileStore::open(path, file_settings())
}

/// Opens what another handle has just let go of: its thread closes the file a moment later.
async fn open_again(path: &Path) -> FileStore {
    let mut store = None;
    super::until("it is free", async || {
        store = open(path).ok();
        store.is_some()
    })
    .await;
    store.unwrap()
}

fn refusal(path: &Path) -> String {
    open(path).unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_there_after_it_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (log, queue, key, blob) = (name("request", "a"), name("jobs", "a"), name("claim", "a"), name("body", "a"));
    for flush in [Flush::EachCommit, Flush::EverySecond] {
        let store = FileStore::open(&path, FileSettings { flush, ..file_settings() });
        let store = match store {
            Ok(store) => store,
            Err(_) => open_again(&path).await,
        };
        let last = store.logs("request", None, 9).await.unwrap().first().map_or(0, |(_, record)| record.position);
        store.append(&log, last, Bytes::from_static(b"record")).await.unwrap();
        store.push(&queue, Bytes::from_static(b"job")).await.unwrap();
        let revision = store.get(&key).await.unwrap().map_or(0, |entry| entry.revision);
        store.set(&key, revision, Bytes::from_static(b"value"), None).await.unwrap();
        store.put_blob(&blob, Bytes::from_static(b"blob")).await.unwrap();
    }
    let store = open_again(&path).await;
    assert_eq!(store.read(&log, 0).await.unwrap().len(), 2);
    assert_eq!(store.jobs(&queue).await.unwrap(), 2);
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, "value");
    assert_eq!(store.blob(&blob).await.unwrap().unwrap(), "blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path).unwrap();
    let said = refusal(&path);
    assert!(said.contains("another process") && said.contains(path.to_str().unwrap()), "{said}");
    drop(store);
    open_again(&path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_store_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "Notes of mine, which are longer than the head of a database. ".repeat(40)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let said = refusal(&path);
    assert!(said.contains("no store") && said.contains("notes.txt"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let path = folder.path().join("other.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE things (name TEXT)").unwrap();
    drop(other);
    let said = refusal(&path);
    assert!(said.contains("something else"), "{said}");

    let said = refusal(&folder.path().join("missing/store"));
    assert!(said.contains("missing/store"), "{said}");
    let said = refusal(folder.path());
    assert!(said.contains("it is no file"), "{said}");
    let said = refusal(std::path::Path::new("/dev/null"));
    assert!(said.contains("it is no file") && !std::path::Path::new("/dev/null.lock").exists(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_later_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path).unwrap();
    let mut last = 0;
    for n in 0..400u32 {
        let record = Bytes::from(n.to_le_bytes().repeat(100));
        last = store.append(&name("request", "a"), last, record).await.unwrap();
    }
    drop(store);
    drop(open_again(&path).await);
    super::until("it is closed", async || open(&path).is_ok()).await;
    let whole = std::fs::read(&path).unwrap();
    // Pages of the middle, overwritten.
    let mut damaged = whole.clone();
    damaged[whole.len() / 2..whole.len() * 3 / 4].fill(0x5a);
    let damaged_path = folder.path().join("damaged");
    std::fs::write(&damaged_path, damaged).unwrap();
    let said = refusal(&damaged_path);
    assert!(said.contains("damaged"), "{said}");
    // Cut short.
    let short = folder.path().join("short");
    std::fs::write(&short, &whole[..whole.len() / 2]).unwrap();
    let said = refusal(&short);
    assert!(said.contains("damaged"), "{said}");

    let later = folder.path().join("later");
    std::fs::write(&later, &whole).unwrap();
    rusqlite::Connection::open(&later).unwrap().execute_batch("PRAGMA user_version = 2").unwrap();
    let said = refusal(&later);
    assert!(said.contains("later version"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_refuses_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let settings = FileSettings { max_bytes: 1 << 20, ..file_settings() };
    let store = FileStore::open(&folder.path().join("store"), settings).unwrap();
    let record = Bytes::from(vec![7; 20_000]);
    // At once, so that they share transactions: what was answered well is there, and what was not is not.
    let logs: Vec<_> = (0..100).map(|n| name("request", &n.to_string())).collect();
    let appended = join_all(logs.iter().map(|log| store.append(log, 0, record.clone()))).await;
    let full = appended.iter().filter(|done| matches!(done, Err(StoreError::Full { .. }))).count();
    assert!(full > 0 && appended.iter().filter(|done| done.is_ok()).count() + full == 100, "{appended:?}");
    for (log, done) in logs.iter().zip(&appended) {
        assert_eq!(store.read(log, 0).await.unwrap().len(), usize::from(done.is_ok()), "{log} {done:?}");
    }
    // Then one by one until nothing fits.
    let mut kept = Vec::new();
    for n in 0..100 {
        let log = name("later", &n.to_string());
        match store.append(&log, 0, record.clone()).await {
            Ok(_) => kept.push(log),
            Err(StoreError::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    for log in &kept {
        assert_eq!(store.read(log, 0).await.unwrap().len(), 1);
        store.remove(log).await.unwrap();
    }
    assert!(kept.len() < 100);
    for log in &logs {
        store.remove(log).await.unwrap();
    }
    store.append(&name("request", "again"), 0, record).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_takes_no_new_log_lets_the_others_end() {
    let folder = tempfile::tempdir().unwrap();
    let settings = FileSettings { max_bytes: 1 << 20, ..file_settings() };
    let store = FileStore::open(&folder.path().join("store"), settings).unwrap();
    let record = Bytes::from(vec![7; 5_000]);
    let mut begun = Vec::new();
    loop {
        let log = name("request", &begun.len().to_string());
        match store.append(&log, 0, record.clone()).await {
            Ok(last) => begun.push((log, last)),
            Err(StoreError::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(matches!(store.push(&name("jobs", "a"), record.clone()).await, Err(StoreError::Full { .. })));
    let (log, last) = &begun[0];
    let last = store.append(log, *last, Bytes::from_static(b"ended")).await.unwrap();
    store.finish(log, last, Bytes::from_static(b"all of it"), Duration::from_secs(60)).await.unwrap();
    for (log, last) in &begun[1..20] {
        store.finish(log, *last, Bytes::from_static(b"all of it"), Duration::from_secs(60)).await.unwrap();
    }
    store.append(&name("request", "new"), 0, record).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_one_by_whatever_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let said = refusal(&link);
    assert!(said.contains("another process"), "{said}");
    let other = folder.path().join("other");
    std::fs::hard_link(&path, &other).unwrap();
    let said = refusal(&other);
    assert!(said.contains("hard link"), "{said}");
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_harms_nothing_that_is_done_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).unwrap();
    let log = name("request", "a");
    let first = store.append(&log, 0, Bytes::from_static(b"first")).await.unwrap();
    // Half of them expect what is not so.
    let logs: Vec<_> = (0..200).map(|n| name("request", &format!("b{n}"))).collect();
    let append =
        |n: usize| store.append(&logs[n], if n.is_multiple_of(2) { 0 } else { first }, Bytes::from_static(b"x"));
    let appended = join_all((0..200).map(append)).await;
    for (n, done) in appended.iter().enumerate() {
        assert_eq!(done.is_ok(), n % 2 == 0, "{n}: {done:?}");
        assert_eq!(store.read(&logs[n], 0).await.unwrap().len(), usize::from(done.is_ok()));
    }
    let late = store.finish(&log, 0, Bytes::from_static(b"late"), Duration::from_secs(9)).await;
    assert_eq!(late, Err(StoreError::Conflict { last: first }));
    assert_eq!(store.read(&log, 0).await.unwrap()[0].bytes, "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_of_the_machine_cannot_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).unwrap();
    store.append(&name("request", "a"), 0, Bytes::from_static(b"secret")).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", file.path().display());
    }
}
