//! Watches: complete, in order, resumable, and only what was asked for.

use super::{Behaviour, Subject, event_text, expect_events, next};
use crate::{Filter, Prefix, Revision};

pub(super) fn all() -> Vec<Behaviour> {
    vec![
        Behaviour { name: "a watch has every change after its revision", run: |s| Box::pin(every_change(s)) },
        Behaviour { name: "a delete carries the last object", run: |s| Box::pin(last_object(s)) },
        Behaviour { name: "a watch can wait for the future", run: |s| Box::pin(future(s)) },
        Behaviour { name: "a watch sees its prefix alone", run: |s| Box::pin(prefixes(s)) },
        Behaviour { name: "a field filter lets both sides of a change through", run: |s| Box::pin(fields(s)) },
        Behaviour { name: "a watch can be resumed anywhere", run: |s| Box::pin(resumed(s)) },
        Behaviour { name: "progress never runs ahead of the events", run: |s| Box::pin(progress(s)) },
        Behaviour { name: "batches keep the order", run: |s| Box::pin(batches(s)) },
    ]
}

async fn every_change(s: Subject) {
    let before = s.store.now().await.expect("a revision");
    let mut live = s.watch(before);
    s.create("a", "1").await;
    let second = s.put("a", "2").await.revision;
    s.create("b", "1").await;
    s.delete("a").await;
    s.create("a", "3").await;
    let all = ["+a=1", "~a=2", "+b=1", "-a=2", "+a=3"];
    expect_events(&mut live, &all).await;
    expect_events(&mut s.watch(before), &all).await;
    expect_events(&mut s.watch(second), &all[2..]).await;
}

async fn last_object(s: Subject) {
    let before = s.store.now().await.expect("a revision");
    s.create("a", "1").await;
    let last = s.put("a", "2").await;
    let deleted = s.delete("a").await;
    let mut changes = s.watch(before);
    expect_events(&mut changes, &["+a=1", "~a=2"]).await;
    let event = next(&mut changes).await;
    assert_eq!(event_text(&event), "-a=2");
    assert_eq!(event.revision, deleted.revision);
    let previous = event.previous.as_ref().expect("the last version");
    assert_eq!((previous.revision, &previous.bytes), (last.revision, &last.bytes));
}

async fn future(s: Subject) {
    let now = s.create("a", "1").await.revision;
    let mut changes = s.watch(Revision(now.0 + 2));
    let mut later = Vec::new();
    for value in ["2", "3", "4", "5", "6"] {
        later.push(s.put("a", value).await.revision);
    }
    let event = next(&mut changes).await;
    let expected = later.into_iter().find(|revision| revision.0 > now.0 + 2);
    assert_eq!(Some(event.revision), expected, "not one before the revision that was asked for");
}

async fn prefixes(s: Subject) {
    let before = s.store.now().await.expect("a revision");
    let watch = |prefix: Prefix| s.store.watch(prefix, before, Filter::All).expect("a watch begins");
    let mut namespace = watch(s.kind.namespace("a"));
    let mut name = watch(s.key("a/2").alone());
    for rest in ["a/1", "b/1", "a/2", "ab/2", "a/20"] {
        s.create(rest, "x").await;
    }
    s.delete("a/2").await;
    for (live, prefix, expected) in [
        (&mut namespace, s.kind.namespace("a"), &["+a/1=x", "+a/2=x", "+a/20=x", "-a/2=x"][..]),
        (&mut name, s.key("a/2").alone(), &["+a/2=x", "-a/2=x"]),
    ] {
        expect_events(live, expected).await;
        expect_events(&mut watch(prefix), expected).await;
    }
}

async fn fields(s: Subject) {
    let before = s.store.now().await.expect("a revision");
    let watch = |value: &str| {
        let filter = Filter::Field { name: "node".into(), value: value.into() };
        s.store.watch(s.kind.all(), before, filter).expect("a watch begins")
    };
    let (mut unbound, mut first, mut second) = (watch(""), watch("one"), watch("two"));
    s.create("a", "new").await;
    s.put("a", "node=one").await;
    s.put("a", "node=one;x=1").await;
    s.create("b", "node=two").await;
    s.put("a", "node=two").await;
    s.delete("a").await;
    for (live, value, expected) in [
        (&mut unbound, "", &["+a=new", "~a=node=one"][..]),
        (&mut first, "one", &["~a=node=one", "~a=node=one;x=1", "~a=node=two"]),
        (&mut second, "two", &["+b=node=two", "~a=node=two", "-a=node=two"]),
    ] {
        expect_events(live, expected).await;
        expect_events(&mut watch(value), expected).await;
    }
}

async fn resumed(s: Subject) {
    let before = s.store.now().await.expect("a revision");
    let writer = tokio::spawn({
        let s = s.clone();
        async move {
            let mut written = Vec::new();
            for round in 0..200 {
                let entry = match round % 5 {
                    4 => s.delete(&format!("{}", (round - 1) % 7)).await,
                    _ => s.put(&format!("{}", round % 7), "x").await,
                };
                written.push(entry.revision);
            }
            written
        }
    });
    // Each time with a new watch, from where the last one stopped.
    let mut seen: Vec<Revision> = Vec::new();
    while seen.len() < 200 {
        let mut changes = s.watch(seen.last().copied().unwrap_or(before));
        for _ in 0..(1 + seen.len() % 13).min(200 - seen.len()) {
            seen.push(next(&mut changes).await.revision);
        }
    }
    assert_eq!(seen, writer.await.expect("the writer ends"));
}

async fn progress(s: Subject) {
    let before = s.store.now().await.expect("a revision");
    let other = s.kind.namespace("other");
    let mut idle = s.store.watch(other, before, Filter::All).expect("a watch begins");
    let mut busy = s.watch(before);
    let mut given = before;
    for round in 0..10 {
        let newest = s.put("a/1", &round.to_string()).await.revision;
        s.store.get(&s.key("a/1"), crate::At::Latest).await.expect("a read works");
        assert!(busy.progress() >= given && busy.progress() < newest, "nothing after {given} was given out");
        assert!(idle.progress() >= newest, "nothing concerns this one");
        given = next(&mut busy).await.revision;
        assert!(busy.progress() >= given);
    }
    s.create("other/1", "x").await;
    assert_eq!(event_text(&*next(&mut idle).await), "+other/1=x");
}

async fn batches(s: Subject) {
    let before = s.store.now().await.expect("a revision");
    let mut written = Vec::new();
    for round in 0..50 {
        written.push(s.put("a", &round.to_string()).await.revision);
    }
    let mut changes = s.watch(before);
    let mut seen = Vec::new();
    while seen.len() < written.len() {
        let batch = changes.next_batch(7).await.expect("the watch goes on");
        assert!(!batch.is_empty() && batch.len() <= 7);
        seen.extend(batch.iter().map(|event| event.revision));
    }
    assert_eq!(seen, written);
}
