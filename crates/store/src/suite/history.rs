//! Compaction: what is forgotten cannot be read or watched, what is not forgotten can.
//!
//! Most of these are mistakes that etcd once made (its robustness record): an event dropped when
//! compacting on a delete, a missing delete for a watch that opens at the compaction revision, reads of
//! a forgotten revision that were answered wrongly.

use super::{Behaviour, Subject, expect_events};
use crate::{At, CompactError, Filter, Limit, ReadError, Revision, WatchError};

pub(super) fn all() -> Vec<Behaviour> {
    vec![
        Behaviour { name: "what is forgotten cannot be read", run: |s| Box::pin(forgotten(s)) },
        Behaviour { name: "compaction keeps the newest versions", run: |s| Box::pin(newest_stay(s)) },
        Behaviour { name: "a watch can begin at the compaction", run: |s| Box::pin(watch_at_compaction(s)) },
        Behaviour { name: "compacting on a delete loses nothing", run: |s| Box::pin(compact_on_delete(s)) },
        Behaviour { name: "compacting twice is no error", run: |s| Box::pin(twice(s)) },
    ]
}

async fn compact(s: &Subject, before: Revision) {
    s.store.compact(before).await.expect("a compaction works");
}

async fn forgotten(s: Subject) {
    let first = s.create("a", "1").await.revision;
    let second = s.put("a", "2").await.revision;
    let third = s.put("a", "3").await.revision;
    compact(&s, second).await;
    let got = s.store.get(&s.key("a"), At::Exact(first)).await.map(|found| found.revision);
    assert!(matches!(got, Err(ReadError::TooOld { .. })), "{got:?}");
    let listed = s.store.list(s.kind.all().into(), At::Exact(first), Limit::NONE).await.map(|found| found.revision);
    assert!(matches!(listed, Err(ReadError::TooOld { .. })), "{listed:?}");
    let watch = s.store.watch(s.kind.all(), first, Filter::All).map(|_| ());
    assert!(matches!(watch, Err(WatchError::TooOld { floor }) if floor >= second), "{watch:?}");
    let zero = s.store.watch(s.kind.all(), Revision::ZERO, Filter::All).map(|_| ());
    assert!(matches!(zero, Err(WatchError::TooOld { .. })), "{zero:?}");
    assert_eq!(s.get("a", At::NotOlderThan(first)).await.as_deref(), Some("a=3"));
    assert_eq!(s.get("a", At::Exact(third)).await.as_deref(), Some("a=3"));
}

async fn newest_stay(s: Subject) {
    s.create("a", "1").await;
    s.create("b", "1").await;
    let last = s.put("a", "2").await.revision;
    compact(&s, last).await;
    for at in [At::Latest, At::Exact(last), At::NotOlderThan(last)] {
        assert_eq!(s.get("a", at).await.as_deref(), Some("a=2"));
        assert_eq!(s.get("b", at).await.as_deref(), Some("b=1"));
    }
}

async fn watch_at_compaction(s: Subject) {
    let first = s.create("a", "1").await.revision;
    s.delete("a").await;
    s.create("b", "1").await;
    compact(&s, first).await;
    expect_events(&mut s.watch(first), &["-a=1", "+b=1"]).await;
}

async fn compact_on_delete(s: Subject) {
    s.create("a", "1").await;
    let kept = s.put("a", "2").await.revision;
    let mut early = s.watch(kept);
    let gone = s.delete("a").await.revision;
    expect_events(&mut early, &["-a=2"]).await;
    compact(&s, gone).await;
    let mut late = s.watch(gone);
    s.create("a", "3").await;
    expect_events(&mut late, &["+a=3"]).await;
    expect_events(&mut early, &["+a=3"]).await;
    assert_eq!(s.get("a", At::Exact(gone)).await, None);
}

async fn twice(s: Subject) {
    let first = s.create("a", "1").await.revision;
    let second = s.put("a", "2").await.revision;
    compact(&s, second).await;
    compact(&s, second).await;
    compact(&s, first).await;
    let far = Revision(second.0 + 1_000_000);
    let future = s.store.compact(far).await;
    assert!(matches!(future, Err(CompactError::Future { .. })), "{future:?}");
}
