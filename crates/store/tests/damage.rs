//! Files that are cut, changed, missing or too new.

mod support;

use std::path::{Path, PathBuf};

use store::embedded::Embedded;
use store::{At, OpenError, Store};
use support::{MemoryDisk, Unsynced, content, delete, kind, open, options, put};

const FIRST_LOG: &str = "/data/log-00000000000000000001";

/// A disk with a log of a few records, and what is stored after each of them.
fn written() -> (MemoryDisk, Vec<Vec<String>>) {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut states = vec![content(&store)];
    for change in [put("a", "red"), put("b", "a longer value, so that records differ"), delete("a"), put("a", "blue")] {
        runtime.block_on(store.commit(change)).unwrap();
        states.push(content(&store));
    }
    drop(store);
    (disk, states)
}

fn reopened(disk: &MemoryDisk, path: &str, bytes: Vec<u8>) -> Result<Vec<String>, OpenError> {
    let disk = disk.after_power_loss(Unsynced::Kept);
    disk.replace(Path::new(path), bytes);
    let store = Embedded::open(options(&disk))?;
    let found = content(&store);
    // It goes on from there, and what is written then is found again.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.commit(put("after", "x"))).unwrap();
    let with_more = content(&store);
    drop(store);
    assert_eq!(content(&open(&disk)), with_more);
    Ok(found)
}

#[test]
fn a_log_that_ends_at_any_byte_is_cut_there() {
    let (disk, states) = written();
    let log = disk.read(Path::new(FIRST_LOG));
    let mut whole = 0;
    for end in 72..=log.len() {
        for filled in [false, true] {
            let mut bytes = log[..end].to_vec();
            if filled {
                bytes.resize(log.len() + 1000, 0);
            }
            let found = reopened(&disk, FIRST_LOG, bytes).unwrap();
            let state = states.iter().position(|state| *state == found).expect("a state between two records");
            assert!(state >= whole, "a longer log has no less");
            whole = state;
        }
    }
    assert_eq!(whole, states.len() - 1);
}

#[test]
fn a_changed_byte_is_found() {
    let (disk, states) = written();
    let log = disk.read(Path::new(FIRST_LOG));
    let mut refused = 0;
    for place in 0..log.len() {
        let mut bytes = log.clone();
        bytes[place] ^= 0x41;
        match reopened(&disk, FIRST_LOG, bytes) {
            // The end may be torn; everything before the last record is intact.
            Ok(found) => assert_eq!(found, states[states.len() - 2], "byte {place}"),
            Err(OpenError::Damaged { path, .. }) => {
                assert_eq!(path, Path::new(FIRST_LOG));
                refused += 1;
            }
            Err(OpenError::Newer { .. }) => assert!((8..12).contains(&place)),
            Err(error) => panic!("byte {place}: {error}"),
        }
    }
    assert!(refused > log.len() / 2);
}

#[test]
fn damage_is_named_with_its_place() {
    let (disk, _) = written();
    let mut log = disk.read(Path::new(FIRST_LOG));
    log[72 + 12 + 20] ^= 1;
    let error = reopened(&disk, FIRST_LOG, log).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{FIRST_LOG} is damaged at byte 72: the checksum of a record is wrong")), "{error}");
}

#[test]
fn a_newer_format_is_refused_in_one_line() {
    let (disk, _) = written();
    let mut log = disk.read(Path::new(FIRST_LOG));
    log[8] = 9;
    let error = reopened(&disk, FIRST_LOG, log).unwrap_err().to_string();
    assert_eq!(error, format!("{FIRST_LOG} has format 9, written by test; this program knows up to 1"));
}

/// A disk with two snapshots and the logs since the older one, and what is stored.
fn with_snapshots() -> (MemoryDisk, Vec<PathBuf>, Vec<String>) {
    let disk = MemoryDisk::default();
    let mut options = options(&disk);
    options.snapshot_after = Some(2000);
    let store = Embedded::open(options).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut round = 0;
    while store.metrics().snapshots.get() < 3 {
        runtime.block_on(store.commit(put(&format!("{}", round % 40), &format!("value {round}")))).unwrap();
        round += 1;
    }
    let found = content(&store);
    drop(store);
    let snapshots: Vec<_> = disk.paths().into_iter().filter(|path| path.to_string_lossy().contains("snapshot-")).collect();
    assert_eq!(snapshots.len(), 2, "the newest and the one before");
    (disk, snapshots, found)
}

#[test]
fn a_damaged_snapshot_costs_nothing() {
    let (disk, snapshots, expected) = with_snapshots();
    let newest = disk.read(&snapshots[1]);
    for place in [3, 50, 80, newest.len() / 2, newest.len() - 1] {
        let disk = disk.after_power_loss(Unsynced::Kept);
        let mut bytes = newest.clone();
        bytes[place] ^= 0x10;
        disk.replace(&snapshots[1], bytes);
        assert_eq!(content(&open(&disk)), expected, "byte {place}");
        assert!(disk.paths().iter().any(|path| path.extension().is_some_and(|ending| ending == "damaged")));
        assert_eq!(content(&open(&disk)), expected, "again");
    }
}

#[test]
fn two_damaged_snapshots_are_refused() {
    let (disk, snapshots, _) = with_snapshots();
    for snapshot in &snapshots {
        let mut bytes = disk.read(snapshot);
        bytes.truncate(100);
        disk.replace(snapshot, bytes);
    }
    assert!(matches!(Embedded::open(options(&disk)), Err(OpenError::Damaged { .. })));
}

#[test]
fn a_missing_log_is_refused() {
    let (disk, _, _) = with_snapshots();
    let logs: Vec<_> = disk.paths().into_iter().filter(|path| path.to_string_lossy().contains("log-")).collect();
    assert!(logs.len() >= 2);
    let disk = disk.after_power_loss(Unsynced::Kept);
    store::embedded::files::FileLayer::remove(&disk, logs.last().unwrap()).unwrap();
    assert!(matches!(Embedded::open(options(&disk)), Err(OpenError::Damaged { .. })));
}

#[test]
fn a_directory_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = store::embedded::Options::new(dir.path(), store::suite::stamp(), "test");
    let first = Embedded::open(options.clone()).unwrap();
    let second = Embedded::open(options.clone()).map(|_| ()).unwrap_err().to_string();
    let expected = format!("data directory {} is in use by pid {}", dir.path().display(), std::process::id());
    assert_eq!(second, expected);
    drop(first);
    Embedded::open(options).unwrap();
}

/// Watches go on over a restart as far back as the log reaches.
#[test]
fn history_survives_a_restart() {
    let (disk, states) = written();
    let store = open(&disk);
    let now = store.mvcc().revision();
    let mut changes = store.watch(kind().all(), store::Revision(1), store::Filter::All).unwrap();
    assert_eq!(changes.ready(usize::MAX).unwrap().len() as u64, now.0 - 1);
    let past = store.mvcc().list_at(&kind().all().into(), At::Exact(store::Revision(now.0 - 1)), store::Limit::NONE);
    let past: Vec<_> = past.unwrap().value.entries.iter().map(|entry| support::shown(entry)).collect();
    assert_eq!(past, states[states.len() - 2]);
}
