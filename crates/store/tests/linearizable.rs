//! What clients see of the embedded store at the same time is what one after another could have seen.

mod histories;

use std::sync::Arc;

use histories::{Call, Did, check, is_linearizable};
use store::embedded::{Embedded, Options};
use store::suite;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn histories_can_be_explained() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path(), suite::stamp(), "test");
    options.snapshot_after = Some(4096);
    let store = Arc::new(Embedded::open(options).unwrap());
    for _ in 0..20 {
        check(store.clone()).await;
    }
}

/// The checker finds what it is there for.
#[test]
fn wrong_histories_cannot() {
    let call = |begin, end, did| Call { begin, end, did };
    let swap = |expected, write, instead| Did::Swap { expected, write, instead };
    let put = call(0, 2, Did::Put(1));
    for (wanted, what, calls) in [
        (true, "a read beside a write sees it", vec![put, call(1, 3, Did::Read(Some(1)))]),
        (true, "or not", vec![put, call(1, 3, Did::Read(None))]),
        (false, "a read after it does", vec![put, call(3, 4, Did::Read(None))]),
        (false, "nobody reads what nobody wrote", vec![put, call(3, 4, Did::Read(Some(2)))]),
        (false, "what was seen stays", vec![call(0, 9, Did::Put(1)), call(1, 2, Did::Read(Some(1))), call(3, 4, Did::Read(None))]),
        (true, "one of two swaps wins", vec![call(0, 3, swap(None, Some(1), None)), call(1, 2, swap(None, Some(2), Some(Some(1))))]),
        (false, "not both", vec![call(0, 3, swap(None, Some(1), None)), call(1, 2, swap(None, Some(2), None))]),
        (false, "and not none", vec![call(0, 3, swap(None, Some(1), Some(Some(2)))), call(1, 2, swap(None, Some(2), Some(Some(1))))]),
        (false, "nothing is deleted twice", vec![put, call(3, 6, Did::Delete(true)), call(4, 5, Did::Delete(true))]),
        (true, "but once", vec![put, call(3, 6, Did::Delete(true)), call(4, 5, Did::Delete(false))]),
    ] {
        assert_eq!(is_linearizable(&calls), wanted, "{what}");
    }
}
