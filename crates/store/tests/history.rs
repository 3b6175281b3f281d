//! The memory of versions against a model that keeps everything.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use store::embedded::Embedded;
use store::{At, Event, EventKind, Filter, Kind, Limit, Prefix, Range, ReadError, Revision, Store, WatchError};
use support::{MemoryDisk, delete, kind, open, options, put, shown};

/// All states of the past, by revision.
type Model = BTreeMap<Revision, BTreeMap<String, String>>;

fn rest(key: u8) -> String {
    format!("{}/{}", ["a", "b", "ab"][usize::from(key) % 3], key / 3)
}

fn listed(store: &dyn Store, prefix: &Prefix, at: Revision, page: usize) -> Result<Vec<String>, ReadError> {
    let mut range = Range::from(prefix.clone());
    let mut found = Vec::new();
    loop {
        let answer = store.mvcc().list_at(&range, At::Exact(at), Limit { entries: page, count_remaining: false })?.value;
        found.extend(answer.entries.iter().map(|entry| shown(entry)));
        range.start_after = answer.entries.last().map(|entry| entry.key.clone());
        if !answer.more {
            return Ok(found);
        }
    }
}

/// What a watcher of `prefix` must see of the step from one state to the next.
fn transition(event: &Event, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    let key = &*event.entry.key.rest;
    let previous = event.previous.as_ref().map(|previous| shown(previous));
    assert_eq!(previous.as_ref(), before.get(key));
    match event.kind {
        EventKind::Put => assert_eq!(Some(&shown(&event.entry)), after.get(key)),
        EventKind::Delete => assert!(!after.contains_key(key)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn like_the_model(
        changes in prop::collection::vec((0..12u8, prop::option::weighted(0.7, 0..9u8)), 1..40),
        floor in 0..10usize,
        page in 1..6usize,
        batch in 1..4usize,
    ) {
        let store = open(&MemoryDisk::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut model = Model::from([(store.mvcc().revision(), BTreeMap::new())]);
        let mut live = store.watch(kind().all(), store.mvcc().revision(), Filter::All).unwrap();
        for (key, value) in &changes {
            let change = value.map_or_else(|| delete(&rest(*key)), |value| put(&rest(*key), &value.to_string()));
            let Some(entry) = runtime.block_on(store.commit(change)).unwrap().committed() else { continue };
            let mut state = model.values().next_back().unwrap().clone();
            match value {
                Some(_) => state.insert(rest(*key), shown(&entry)),
                None => state.remove(&rest(*key)),
            };
            model.insert(entry.revision, state);
        }
        let revisions: Vec<_> = model.keys().copied().collect();
        let floor = revisions[floor.min(revisions.len() - 1)];
        runtime.block_on(store.compact(floor)).unwrap();

        let prefixes = [kind().all(), kind().namespace("a"), kind().namespace("ab"), kind().key(rest(4)).alone()];
        for prefix in &prefixes {
            for (revision, state) in &model {
                let expected: Vec<_> =
                    state.iter().filter(|(rest, _)| prefix.covers_rest(rest)).map(|(_, shown)| shown.clone()).collect();
                let one = store.mvcc().get_at(&kind().key(rest(4)), At::Exact(*revision));
                if *revision < floor {
                    assert!(matches!(listed(&store, prefix, *revision, page), Err(ReadError::TooOld { .. })));
                    assert!(matches!(one, Err(ReadError::TooOld { .. })));
                } else {
                    assert_eq!(listed(&store, prefix, *revision, page).unwrap(), expected);
                    assert_eq!(one.unwrap().value.map(|entry| shown(&entry)).as_ref(), state.get(&rest(4)));
                }
            }
            for after in &revisions {
                let watch = store.watch(prefix.clone(), *after, Filter::All);
                if *after < floor {
                    assert!(matches!(watch, Err(WatchError::TooOld { floor: said }) if said == floor));
                    continue;
                }
                let mut watch = watch.unwrap();
                let mut seen = Vec::new();
                loop {
                    let events = watch.ready(batch).unwrap();
                    if events.is_empty() {
                        break;
                    }
                    seen.extend(events);
                }
                let mut state = model[after].clone();
                for event in &seen {
                    let now = &model[&event.revision];
                    transition(event, model.range(..event.revision).next_back().unwrap().1, now);
                    state = now.clone();
                }
                let covered = |state: &BTreeMap<String, String>| {
                    let covered = state.iter().filter(|(rest, _)| prefix.covers_rest(rest));
                    covered.map(|(_, shown)| shown.clone()).collect::<Vec<_>>()
                };
                assert_eq!(covered(&state), covered(model.values().next_back().unwrap()));
                assert!(seen.is_sorted_by(|a, b| a.revision < b.revision));
                assert!(watch.progress() == *revisions.last().unwrap());
            }
        }
        match live.ready(usize::MAX) {
            // It had taken nothing, so it is too old if anything was forgotten.
            Err(WatchError::TooOld { .. }) => assert!(floor > revisions[0]),
            Err(closed) => panic!("{closed}"),
            Ok(events) => assert_eq!(events.len(), revisions.len() - 1),
        }
    }
}

#[tokio::test]
async fn a_slow_watcher_falls_behind_alone() {
    let disk = MemoryDisk::default();
    let mut options = options(&disk);
    options.history.bytes = 20_000;
    options.history.at_least = Duration::ZERO;
    let store = Embedded::open(options).unwrap();
    let begin = store.mvcc().revision();
    let mut slow = store.watch(kind().all(), begin, Filter::All).unwrap();
    let mut idle = store.watch(kind().namespace("elsewhere"), begin, Filter::All).unwrap();
    let mut quick = store.watch(kind().all(), begin, Filter::All).unwrap();
    for round in 0..200 {
        let entry = store.commit(put("a/1", &format!("{round} {}", "x".repeat(500)))).await.unwrap().committed().unwrap();
        assert!(Arc::ptr_eq(&quick.next().await.unwrap().entry, &entry), "one copy of each version");
    }
    let floor = store.mvcc().floor();
    assert!(floor > begin);
    // Nothing was forgotten of a kind that nothing happened to, though states of then are gone.
    let quiet = Kind::new("/registry/quiet/");
    let mut back = store.watch(quiet.all(), begin, Filter::All).unwrap();
    assert!(back.ready(usize::MAX).unwrap().is_empty());
    let then = store.mvcc().get_at(&quiet.key("a"), At::Exact(begin));
    assert!(matches!(then, Err(ReadError::TooOld { .. })));
    drop(back);
    assert!(store.metrics().history_bytes.get() <= 20_000);
    assert_eq!(slow.next().await.unwrap_err(), WatchError::TooOld { floor });
    // Nothing has happened to this one, so it has missed nothing.
    store.commit(put("elsewhere/1", "x")).await.unwrap();
    assert_eq!(shown(&idle.next().await.unwrap().entry), format!("elsewhere/1={}|x", store.mvcc().revision()));
    assert_eq!(store.metrics().watchers.get(), 3);
    drop((slow, idle, quick));
    assert_eq!(store.metrics().watchers.get(), 0);
}

#[tokio::test]
async fn history_has_an_age() {
    let disk = MemoryDisk::default();
    let mut options = options(&disk);
    options.history.age = Duration::from_millis(20);
    options.history.at_least = Duration::ZERO;
    let store = Embedded::open(options).unwrap();
    let first = store.commit(put("a", "1")).await.unwrap().committed().unwrap().revision;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while store.mvcc().floor() < first {
        assert!(std::time::Instant::now() < deadline);
        store.commit(put("b", "x")).await.unwrap();
    }
    assert!(store.mvcc().get_at(&kind().key("a"), At::Latest).unwrap().value.is_some());
}
