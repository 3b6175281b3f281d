//! Compare and put, compare and delete, time to live.

use std::time::{Duration, Instant};

use super::{Behaviour, PATIENCE, Subject, next, shown, text};
use crate::{At, Change, CommitError, EventKind, Expect, Op, Revision};

pub(super) fn all() -> Vec<Behaviour> {
    vec![
        Behaviour { name: "an object is created once", run: |s| Box::pin(created_once(s)) },
        Behaviour { name: "a change happens only to the expected version", run: |s| Box::pin(expected_version(s)) },
        Behaviour { name: "what is not there cannot be deleted", run: |s| Box::pin(nothing_to_delete(s)) },
        Behaviour { name: "each version has a larger revision", run: |s| Box::pin(revisions_grow(s)) },
        Behaviour { name: "a refused value changes nothing", run: |s| Box::pin(refused(s)) },
        Behaviour { name: "an object goes when its time to live ends", run: |s| Box::pin(expires(s)) },
        Behaviour { name: "an object that is put again lives on", run: |s| Box::pin(lives_on(s)) },
    ]
}

async fn created_once(s: Subject) {
    let entry = s.create("a", "red").await;
    assert_eq!(shown(&entry), "a=red");
    assert_eq!(entry.created, entry.revision);
    let current = s.lost(Change::create(s.key("a"), text("blue"))).await.expect("it is there");
    assert_eq!((shown(&current), current.revision), ("a=red".into(), entry.revision));
    s.delete("a").await;
    let again = s.create("a", "blue").await;
    assert!(again.created > entry.created);
}

async fn expected_version(s: Subject) {
    let first = s.create("a", "red").await;
    let second = s.won(Change::replace(s.key("a"), first.revision, text("blue"))).await;
    assert_eq!((shown(&second), second.created), ("a=blue".into(), first.created));
    for stale in [
        Change::replace(s.key("a"), first.revision, text("green")),
        Change::delete(s.key("a"), first.revision),
        Change::replace(s.key("a"), Revision(second.revision.0 + 1_000_000), text("green")),
    ] {
        let current = s.lost(stale).await.expect("it is there");
        assert_eq!((shown(&current), current.revision), ("a=blue".into(), second.revision));
    }
    let deleted = s.won(Change::delete(s.key("a"), second.revision)).await;
    assert!(deleted.revision > second.revision);
    assert_eq!(shown(&deleted), "a=blue");
    assert_eq!(s.get("a", At::Latest).await, None);
    assert!(s.lost(Change::replace(s.key("a"), second.revision, text("green"))).await.is_none());
}

async fn nothing_to_delete(s: Subject) {
    for expect in [Expect::Any, Expect::Absent, Expect::Revision(Revision(1))] {
        assert!(s.lost(Change { key: s.key("a"), expect, op: Op::Delete }).await.is_none());
    }
    s.create("a", "red").await;
    assert!(s.lost(Change { key: s.key("a"), expect: Expect::Absent, op: Op::Delete }).await.is_some());
}

async fn revisions_grow(s: Subject) {
    let mut last = s.store.now().await.expect("a revision");
    assert!(last > Revision::ZERO, "0 stands for any revision");
    for round in 0..5 {
        for entry in [s.put("a", &round.to_string()).await, s.put("b", "x").await, s.delete("b").await] {
            assert!(entry.revision > last);
            last = entry.revision;
        }
        assert!(s.store.now().await.expect("a revision") >= last);
    }
}

async fn refused(s: Subject) {
    let mut changes = s.watch(s.store.now().await.expect("a revision"));
    let refused = s.change(Change::create(s.key("a"), text("refuse"))).await;
    assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");
    assert_eq!(s.get("a", At::Latest).await, None);
    s.create("b", "red").await;
    assert_eq!(&*next(&mut changes).await.entry.key.rest, "b");
}

async fn expires(s: Subject) {
    let begun = Instant::now();
    let ttl = Duration::from_secs(1);
    let entry = s.won(Change::create(s.key("a"), text("red")).with_ttl(ttl)).await;
    let mut changes = s.watch(entry.revision);
    let event = next(&mut changes).await;
    assert_eq!((event.kind, shown(&event.entry)), (EventKind::Delete, "a=red".into()));
    assert!(event.revision > entry.revision);
    assert!(begun.elapsed() >= ttl - Duration::from_millis(10), "not before its time");
    assert_eq!(s.get("a", At::Latest).await, None);
}

async fn lives_on(s: Subject) {
    let ttl = Duration::from_secs(1);
    for name in ["kept", "renewed", "gone"] {
        s.won(Change::create(s.key(name), text("red")).with_ttl(ttl)).await;
    }
    s.put("kept", "blue").await;
    let op = Op::Put { raw: text("blue"), ttl: Some(PATIENCE * 10) };
    let renewed = s.won(Change { key: s.key("renewed"), expect: Expect::Any, op }).await;
    let mut changes = s.watch(renewed.revision);
    let event = next(&mut changes).await;
    assert_eq!((event.kind, shown(&event.entry)), (EventKind::Delete, "gone=red".into()));
    // Their first times to live were over before this one's.
    assert_eq!(s.get("kept", At::Latest).await.as_deref(), Some("kept=blue"));
    assert_eq!(s.get("renewed", At::Latest).await.as_deref(), Some("renewed=blue"));
}
