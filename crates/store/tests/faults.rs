//! A full disk, a disk that cannot sync, a stamp that panics, an end in the middle.

mod support;

use store::embedded::Embedded;
use store::{CommitError, Filter, Outcome, Store};
use support::{MemoryDisk, Unsynced, content, kind, open, options, put};

#[tokio::test]
async fn a_full_disk_is_an_error_that_passes() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    let mut changes = store.watch(kind().all(), store.mvcc().revision(), Filter::All).unwrap();
    disk.set_capacity(Some(disk.used() + 2000));
    let mut committed = Vec::new();
    let mut round = 0;
    let full = loop {
        match store.commit(put(&format!("{round}"), &"x".repeat(300))).await {
            Ok(Outcome::Committed(entry)) => committed.push(entry.revision),
            Ok(lost) => panic!("{lost:?}"),
            Err(error) => break error,
        }
        round += 1;
    };
    assert!(matches!(full, CommitError::NoSpace), "{full}");
    let before = content(&store);
    let now = store.mvcc().revision();
    for _ in 0..3 {
        let together = (0..5).map(|more| store.commit(put(&format!("more{more}"), &"y".repeat(500))));
        for answer in futures_util::future::join_all(together).await {
            assert!(matches!(answer, Err(CommitError::NoSpace)));
        }
    }
    assert_eq!((content(&store), store.mvcc().revision()), (before, now), "nothing has changed");

    disk.set_capacity(None);
    let entry = store.commit(put("again", "x")).await.unwrap().committed().unwrap();
    assert_eq!(entry.revision, now.next());
    committed.push(entry.revision);
    let seen: Vec<_> = changes.ready(usize::MAX).unwrap().iter().map(|event| event.revision).collect();
    assert_eq!(seen, committed);
    let expected = content(&store);
    assert_eq!(content(&open(&disk.after_power_loss(Unsynced::Lost))), expected);
}

#[tokio::test]
async fn an_expired_object_goes_when_there_is_space_again() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    let ttl = std::time::Duration::from_millis(50);
    let mut changes = store.watch(kind().all(), store.mvcc().revision(), Filter::All).unwrap();
    store.commit(put("a", "x").with_ttl(ttl)).await.unwrap();
    let made = changes.next().await.unwrap();
    disk.set_capacity(Some(0));
    // What is reserved is used up first.
    let large = "x".repeat(20_000);
    assert!(matches!(store.commit(put("b", &large)).await, Err(CommitError::NoSpace)));
    disk.set_capacity(None);
    let gone = changes.next().await.unwrap();
    assert_eq!((&*made.entry.key.rest, &*gone.entry.key.rest), ("a", "a"));
    assert!(content(&store).is_empty());
}

/// A snapshot that does not fit is no harm: the logs stay, and the next one is tried later.
#[tokio::test]
async fn a_snapshot_that_does_not_fit_is_tried_again() {
    let disk = MemoryDisk::default();
    let mut options = options(&disk);
    options.snapshot_after = Some(30_000);
    let store = Embedded::open(options).unwrap();
    let value = "x".repeat(1000);
    for key in 0..20 {
        store.commit(put(&format!("{key}"), &value)).await.unwrap();
    }
    disk.set_capacity(Some(disk.used() + 25_000));
    let mut round = 0;
    while store.metrics().snapshot_failures.get() == 0 {
        if let Err(error) = store.commit(put("a", &format!("{round}{value}"))).await {
            assert!(matches!(error, CommitError::NoSpace), "{error}");
        }
        round += 1;
        assert!(round < 10_000, "a snapshot of 20 kB was to be tried");
    }
    disk.set_capacity(None);
    while store.metrics().snapshots.get() == 0 {
        store.commit(put("a", &format!("{round}{value}"))).await.unwrap();
        round += 1;
    }
    let expected = content(&store);
    drop(store);
    assert_eq!(content(&open(&disk)), expected);
}

#[tokio::test]
async fn a_failed_sync_ends_writing() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    store.commit(put("a", "x")).await.unwrap();
    let before = content(&store);
    disk.fail_syncs();
    for _ in 0..2 {
        let failed = store.commit(put("b", "x")).await;
        assert!(matches!(failed, Err(CommitError::Failed(_))), "{failed:?}");
    }
    assert!(store.failure().is_some());
    assert_eq!(content(&store), before, "reading goes on");
}

#[tokio::test]
async fn a_stamp_that_panics_hurts_its_caller_alone() {
    let disk = MemoryDisk::default();
    let mut options = options(&disk);
    let stamp = options.stamp.clone();
    options.stamp = std::sync::Arc::new(move |key, raw, revision| {
        assert!(&*raw != b"panic", "as asked");
        stamp(key, raw, revision)
    });
    let store = Embedded::open(options).unwrap();
    assert!(matches!(store.commit(put("a", "panic")).await, Err(CommitError::Refused(_))));
    store.commit(put("a", "x")).await.unwrap();
}

#[tokio::test]
async fn closing_commits_what_is_queued_and_ends_watches() {
    let disk = MemoryDisk::default();
    let store = open(&disk);
    let mut changes = store.watch(kind().all(), store.mvcc().revision(), Filter::All).unwrap();
    for round in 0..100 {
        drop(store.commit(put(&format!("{round}"), "x")));
    }
    drop(store);
    assert!(changes.next().await.is_err());
    assert_eq!(content(&open(&disk)).len(), 100);
}
