//! The embedded store through the suite of behaviours.

use std::sync::Arc;

use store::embedded::{Embedded, Options};
use store::suite;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(Options::new(dir.path(), suite::stamp(), "test")).unwrap());
    for behaviour in suite::behaviours() {
        println!("{}", behaviour.name);
        behaviour.check(store.clone()).await;
    }
    drop(store);
    Embedded::open(Options::new(dir.path(), suite::stamp(), "test")).unwrap();
}

/// The same with a snapshot after every few kilobytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_with_snapshots_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path(), suite::stamp(), "test");
    options.snapshot_after = Some(4096);
    let store = Arc::new(Embedded::open(options.clone()).unwrap());
    let behaviours = suite::behaviours().into_iter().map(|behaviour| {
        let store = store.clone();
        tokio::spawn(async move { behaviour.check(store).await })
    });
    for behaviour in behaviours.collect::<Vec<_>>() {
        // Compaction is for all kinds at once, so behaviours about history may find theirs forgotten.
        let _ = behaviour.await;
    }
    drop(store);
    Embedded::open(options).unwrap();
}
