//! The embedded store through the suite of behaviours.

use std::sync::Arc;

use store::embedded::{Embedded, Options};
use store::suite;

async fn check(options: Options) {
    let store = Arc::new(Embedded::open(options.clone()).unwrap());
    for behaviour in suite::behaviours() {
        println!("{}", behaviour.name);
        behaviour.check(store.clone()).await;
    }
    drop(store);
    Embedded::open(options).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    let dir = tempfile::tempdir().unwrap();
    check(Options::new(dir.path(), suite::stamp(), "test")).await;
}

/// The same with a snapshot after every few kilobytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_with_snapshots_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path(), suite::stamp(), "test");
    options.snapshot_after = Some(4096);
    check(options).await;
}
