//! A real file system that fills up: a clear error to whoever writes, nothing half there, and it goes on when there is room.

mod disk;
mod support;

use disk::Disk;
use rustix::mount::{MountFlags, mount_remount};
use store::embedded::{Embedded, Options};
use store::{CommitError, Filter, Store, suite};
use support::{content, kind, put};

fn open(disk: &Disk) -> Embedded {
    let mut options = Options::new(disk.path().join("data"), suite::stamp(), "test");
    options.snapshot_after = Some(1 << 20);
    Embedded::open(options).unwrap()
}

/// Writes until nothing fits any more; how much was written.
async fn fill(store: &Embedded, name: &str) -> usize {
    let value = "x".repeat(100_000);
    for round in 0..1000 {
        match store.commit(put(&format!("{name}{round}"), &value)).await {
            Ok(outcome) => drop(outcome.committed().unwrap()),
            Err(CommitError::NoSpace) => return round,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the disk has no end");
}

#[tokio::test]
async fn it_fills_up_and_recovers() {
    let Some(disk) = Disk::new(c"size=12m") else { return };
    let store = open(&disk);
    let mut changes = store.watch(kind().all(), store.mvcc().revision(), Filter::All).unwrap();
    let written = fill(&store, "a").await;
    assert!(written > 10, "{written}");
    let (before, now) = (content(&store), store.mvcc().revision());
    let large = "y".repeat(500_000);
    for round in 0..5 {
        let refused = store.commit(put(&format!("refused{round}"), &large)).await;
        assert!(matches!(refused, Err(CommitError::NoSpace)), "{refused:?}");
    }
    assert_eq!((content(&store), store.mvcc().revision()), (before.clone(), now), "nothing has changed");
    assert_eq!(changes.ready(usize::MAX).unwrap().len(), written, "watchers have seen what was acknowledged");

    // More room, without a restart.
    mount_remount(disk.path(), MountFlags::empty(), c"size=40m").unwrap();
    let entry = store.commit(put("again", &large)).await.unwrap().committed().unwrap();
    assert_eq!(entry.revision, now.next());
    let before = content(&store);
    drop(store);
    assert_eq!(content(&open(&disk)), before);
}

#[tokio::test]
async fn a_neighbour_takes_the_room_and_gives_it_back() {
    let Some(disk) = Disk::new(c"size=32m") else { return };
    let store = open(&disk);
    store.commit(put("first", "x")).await.unwrap();
    let neighbour = disk.fill();
    fill(&store, "a").await;
    let before = content(&store);
    drop(store);
    // A start on a full disk loses nothing, whether it succeeds or says why not.
    let mut options = Options::new(disk.path().join("data"), suite::stamp(), "test");
    options.snapshot_after = Some(1 << 20);
    match Embedded::open(options) {
        Ok(store) => assert_eq!(content(&store), before),
        Err(error) => assert!(format!("{error:?}").contains("StorageFull"), "{error:?}"),
    }
    std::fs::remove_file(&neighbour).unwrap();
    let store = open(&disk);
    assert_eq!(content(&store), before);
    store.commit(put("again", &"y".repeat(500_000))).await.unwrap().committed().unwrap();
}
