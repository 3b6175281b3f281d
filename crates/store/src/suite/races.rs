//! Many writers at once.

use std::collections::BTreeSet;

use super::{Behaviour, Subject, next, text, value};
use crate::{At, Change, Entry, Outcome, Revision};

pub(super) fn all() -> Vec<Behaviour> {
    vec![
        Behaviour { name: "compare-and-put is linearizable", run: |s| Box::pin(counter(s)) },
        Behaviour { name: "of many creators one wins", run: |s| Box::pin(one_creator(s)) },
        Behaviour { name: "watchers agree with the writers", run: |s| Box::pin(agreement(s)) },
    ]
}

const WRITERS: usize = 8;
const ROUNDS: usize = 25;

fn number(entry: &Entry) -> usize {
    let text = std::str::from_utf8(&entry.bytes).expect("only texts are stored");
    value(text).parse().expect("only numbers are stored")
}

/// Adds one to the counter, however often it loses. Returns the revision that did it.
async fn add_one(s: &Subject) -> Revision {
    let mut current = s.store.get(&s.key("counter"), At::Latest).await.expect("a read works").value;
    loop {
        let seen = current.expect("it is there");
        let raw = text(&(number(&seen) + 1).to_string());
        match s.change(Change::replace(s.key("counter"), seen.revision, raw)).await.expect("a commit works") {
            Outcome::Committed(entry) => return entry.revision,
            Outcome::Lost { current: winner } => {
                let winner = winner.expect("nobody deletes it");
                assert!(winner.revision > seen.revision, "who wins is newer");
                current = Some(winner);
            }
        }
    }
}

async fn counter(s: Subject) {
    s.create("counter", "0").await;
    let writers = (0..WRITERS).map(|_| {
        let s = s.clone();
        tokio::spawn(async move {
            let mut won = Vec::new();
            for _ in 0..ROUNDS {
                won.push(add_one(&s).await);
            }
            assert!(won.is_sorted(), "a writer's revisions grow");
            won
        })
    });
    let mut won = BTreeSet::new();
    for writer in writers.collect::<Vec<_>>() {
        won.extend(writer.await.expect("the writer ends"));
    }
    assert_eq!(won.len(), WRITERS * ROUNDS, "no revision twice");
    let last = s.store.get(&s.key("counter"), At::Latest).await.expect("a read works").value.expect("it is there");
    assert_eq!(number(&last), WRITERS * ROUNDS, "no addition lost");
    assert_eq!(Some(&last.revision), won.last());
}

async fn one_creator(s: Subject) {
    for round in 0..10 {
        let creators = (0..WRITERS).map(|_| {
            let s = s.clone();
            let change = Change::create(s.key(&format!("{round}")), text("x"));
            tokio::spawn(async move { s.change(change).await.expect("a commit works") })
        });
        let mut winners = Vec::new();
        let mut losers = Vec::new();
        for creator in creators.collect::<Vec<_>>() {
            match creator.await.expect("the creator ends") {
                Outcome::Committed(entry) => winners.push(entry.revision),
                Outcome::Lost { current } => losers.push(current.expect("it is there").revision),
            }
        }
        assert_eq!(winners.len(), 1);
        assert!(losers.iter().all(|seen| *seen == winners[0]));
    }
}

async fn agreement(s: Subject) {
    let before = s.store.now().await.expect("a revision");
    let total = WRITERS * ROUNDS;
    let watchers: Vec<_> = (0..3)
        .map(|_| {
            let mut changes = s.watch(before);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                for _ in 0..total {
                    let event = next(&mut changes).await;
                    seen.push((event.revision, event.entry.key.clone(), event.kind));
                }
                seen
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let s = s.clone();
            tokio::spawn(async move {
                let mut written = Vec::new();
                for round in 0..ROUNDS {
                    let rest = format!("{}", (writer + round) % 3);
                    written.push(s.put(&rest, &format!("{writer}.{round}")).await);
                }
                written
            })
        })
        .collect();
    let mut written = Vec::new();
    for writer in writers {
        let own = writer.await.expect("the writer ends");
        assert!(own.is_sorted_by_key(|entry| entry.revision));
        written.extend(own.into_iter().map(|entry| (entry.revision, entry.key.clone(), crate::EventKind::Put)));
    }
    written.sort_by_key(|(revision, ..)| *revision);
    for watcher in watchers {
        assert_eq!(watcher.await.expect("the watcher ends"), written);
    }
}
