//! Get and list, now and at a revision.

use super::{Behaviour, Subject, shown};
use crate::{At, Entry, Found, Key, Limit, Page, Prefix, Range, ReadError, Revision};

pub(super) fn all() -> Vec<Behaviour> {
    vec![
        Behaviour { name: "a read sees every write before it", run: |s| Box::pin(reads_own_writes(s)) },
        Behaviour { name: "a list has the objects of its prefix in order", run: |s| Box::pin(ordered(s)) },
        Behaviour { name: "pages make up the list", run: |s| Box::pin(pages(s)) },
        Behaviour { name: "pages at a revision are exact", run: |s| Box::pin(pages_at_a_revision(s)) },
        Behaviour { name: "the past can be read", run: |s| Box::pin(past(s)) },
        Behaviour { name: "the future cannot be read", run: |s| Box::pin(future(s)) },
    ]
}

async fn list(s: &Subject, prefix: Prefix, start_after: Option<Key>, at: At, limit: Limit) -> Found<Page> {
    s.store.list(Range { prefix, start_after }, at, limit).await.expect("a list works")
}

fn names(page: &Page) -> Vec<String> {
    page.entries.iter().map(|entry| shown(entry)).collect()
}

async fn reads_own_writes(s: Subject) {
    for round in 0..20 {
        let put = s.put("a", &round.to_string()).await;
        let found = s.store.get(&s.key("a"), At::Latest).await.expect("a read works");
        assert!(found.revision >= put.revision);
        assert_eq!(found.value.expect("it is there").revision, put.revision);
        let found = s.store.get(&s.key("a"), At::NotOlderThan(put.revision)).await.expect("a read works");
        assert_eq!(found.value.expect("it is there").revision, put.revision);
        let found = list(&s, s.kind.all(), None, At::Latest, Limit::NONE).await;
        assert_eq!(names(&found.value), [format!("a={round}")]);
    }
}

async fn ordered(s: Subject) {
    for rest in ["b/1", "a/2", "a-b/1", "a/1", "a/10", "ab/1", "c"] {
        s.create(rest, "x").await;
    }
    let check = async |prefix: Prefix, expected: &[&str]| {
        let found = list(&s, prefix, None, At::Latest, Limit::NONE).await;
        let keys: Vec<_> = found.value.entries.iter().map(|entry: &std::sync::Arc<Entry>| &*entry.key.rest).collect();
        assert_eq!(keys, expected);
        assert!(!found.value.more);
    };
    check(s.kind.all(), &["a-b/1", "a/1", "a/10", "a/2", "ab/1", "b/1", "c"]).await;
    check(s.kind.namespace("a"), &["a/1", "a/10", "a/2"]).await;
    check(s.key("a/1").alone(), &["a/1"]).await;
    check(s.kind.namespace("none"), &[]).await;
    check(s.key("none").alone(), &[]).await;
}

async fn pages(s: Subject) {
    for place in 0..25 {
        s.create(&format!("n/{place:02}"), "x").await;
    }
    s.create("other/1", "x").await;
    for size in [1, 7, 24, 25, 26] {
        let mut seen = Vec::new();
        let mut last = None;
        loop {
            let found = list(&s, s.kind.namespace("n"), last, At::Latest, Limit::page(size)).await;
            let page = found.value;
            seen.extend(page.entries.iter().map(|entry| entry.key.clone()));
            assert_eq!(page.remaining, Some(25 - seen.len() as u64));
            assert_eq!(page.more, seen.len() < 25);
            if !page.more {
                break;
            }
            assert_eq!(page.entries.len(), size);
            last = seen.last().cloned();
        }
        assert_eq!(seen.len(), 25);
        assert!(seen.is_sorted());
    }
}

async fn pages_at_a_revision(s: Subject) {
    for place in 0..20 {
        s.create(&format!("{place:02}"), "old").await;
    }
    let first = list(&s, s.kind.all(), None, At::Latest, Limit::page(5)).await;
    let mut seen = names(&first.value);
    for place in (0..20).step_by(3) {
        s.delete(&format!("{place:02}")).await;
    }
    for place in 0..20 {
        s.put(&format!("{place:02}"), "new").await;
        s.put(&format!("{place:02}-between"), "new").await;
    }
    let mut last = first.value.entries.last().map(|entry| entry.key.clone());
    loop {
        let found = list(&s, s.kind.all(), last, At::Exact(first.revision), Limit::page(5)).await;
        assert_eq!(found.revision, first.revision);
        seen.extend(names(&found.value));
        assert_eq!(found.value.remaining, Some(20 - seen.len() as u64));
        last = found.value.entries.last().map(|entry| entry.key.clone());
        if !found.value.more {
            break;
        }
    }
    assert_eq!(seen, (0..20).map(|place| format!("{place:02}=old")).collect::<Vec<_>>());
}

async fn past(s: Subject) {
    let before = s.store.now().await.expect("a revision");
    let first = s.create("a", "1").await.revision;
    let second = s.put("a", "2").await.revision;
    let gone = s.delete("a").await.revision;
    let third = s.create("a", "3").await.revision;
    let expected = [(before, None), (first, Some("a=1")), (second, Some("a=2")), (gone, None), (third, Some("a=3"))];
    for (revision, value) in expected {
        assert_eq!(s.get("a", At::Exact(revision)).await.as_deref(), value, "at {revision}");
        let found = list(&s, s.kind.all(), None, At::Exact(revision), Limit::NONE).await;
        assert_eq!(names(&found.value).first().map(String::as_str), value, "at {revision}");
    }
}

async fn future(s: Subject) {
    let now = s.create("a", "1").await.revision;
    let far = Revision(now.0 + 1_000_000);
    for at in [At::Exact(far), At::NotOlderThan(far)] {
        let got = s.store.get(&s.key("a"), at).await.map(|found| found.revision);
        assert!(matches!(got, Err(ReadError::Future { asked, .. }) if asked == far), "{got:?}");
        let listed = s.store.list(s.kind.all().into(), at, Limit::NONE).await.map(|found| found.revision);
        assert!(matches!(listed, Err(ReadError::Future { asked, .. }) if asked == far), "{listed:?}");
    }
}
