//! The behaviours that every store is held to, as functions over `dyn Store`.
//!
//! They run on the embedded store and on etcd, so that real etcd checks what is written here, and what
//! is written here checks the stores. Each behaviour uses a kind of its own and assumes nothing about
//! what else is in the store, so all of them can run on one store, one after another.

mod history;
mod races;
mod reads;
mod watches;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    At, Change, Changes, CommitError, Entry, Event, EventKind, Expect, Filter, Header, Key, Kind, Op, Outcome, Revision, Stamp, StampError,
    Store,
};

/// One thing that a store does.
pub struct Behaviour {
    /// What.
    pub name: &'static str,
    run: fn(Subject) -> BoxFuture<'static, ()>,
}

/// All of them.
pub fn behaviours() -> Vec<Behaviour> {
    [writes::all(), reads::all(), history::all(), watches::all(), races::all()].into_iter().flatten().collect()
}

impl Behaviour {
    /// Panics if the store does not behave. It must have been opened with [`stamp`].
    pub async fn check(&self, store: Arc<dyn Store>) {
        let kind = Kind::new(format!("/registry/suite-{:016x}/", rand::random::<u64>()));
        (self.run)(Subject { store, kind }).await;
    }
}

/// A stamp function for values that are short texts such as `red` or `node=a`: the version's bytes are
/// `12|node=a`, and what has an equals sign becomes a selectable field.
pub fn stamp() -> Stamp {
    Arc::new(|key, raw, revision| {
        let text = std::str::from_utf8(&raw).map_err(|_| StampError("not a text".into()))?;
        let value = value(text);
        if value == "refuse" {
            return Err(StampError("refused, as asked".into()));
        }
        let fields = value.split(';').filter_map(|field| field.split_once('='));
        let header = Header {
            name: key.name().into(),
            namespace: key.namespace().into(),
            fields: fields.map(|(name, value)| (name.into(), value.into())).collect(),
            ..Header::default()
        };
        Ok((Bytes::from(format!("{revision}|{value}").into_boxed_str().into_boxed_bytes()), header))
    })
}

/// The text without the revision that [`stamp`] puts before it.
pub fn value(stamped: &str) -> &str {
    stamped.split_once('|').map_or(stamped, |(_, value)| value)
}

/// A store and a kind that nobody else uses.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) kind: Kind,
}

impl Subject {
    fn key(&self, rest: &str) -> Key {
        self.kind.key(rest)
    }

    async fn change(&self, change: Change) -> Result<Outcome, CommitError> {
        tokio::time::timeout(PATIENCE, self.store.commit(change)).await.expect("a commit ends")
    }

    async fn won(&self, change: Change) -> Arc<Entry> {
        let outcome = self.change(change).await.expect("a commit works");
        outcome.committed().expect("nobody else changes this")
    }

    async fn lost(&self, change: Change) -> Option<Arc<Entry>> {
        match self.change(change).await.expect("a commit works") {
            Outcome::Lost { current } => current,
            Outcome::Committed(entry) => panic!("expected to lose, but got {entry:?}"),
        }
    }

    async fn create(&self, rest: &str, value: &str) -> Arc<Entry> {
        self.won(Change::create(self.key(rest), text(value))).await
    }

    async fn put(&self, rest: &str, value: &str) -> Arc<Entry> {
        let op = Op::Put { raw: text(value), ttl: None };
        self.won(Change { key: self.key(rest), expect: Expect::Any, op }).await
    }

    async fn delete(&self, rest: &str) -> Arc<Entry> {
        self.won(Change { key: self.key(rest), expect: Expect::Any, op: Op::Delete }).await
    }

    async fn get(&self, rest: &str, at: At) -> Option<String> {
        let found = self.store.get(&self.key(rest), at).await.expect("a read works");
        found.value.map(|entry| shown(&entry))
    }

    fn watch(&self, after: Revision) -> Changes {
        self.store.watch(self.kind.all(), after, Filter::All).expect("a watch begins")
    }
}

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

fn shown(entry: &Entry) -> String {
    let bytes = std::str::from_utf8(&entry.bytes).expect("only texts are stored");
    assert_eq!(bytes.split_once('|').expect("it is stamped").0, entry.revision.to_string(), "stamped with its revision");
    format!("{}={}", entry.key.rest, value(bytes))
}

fn event_text(event: &Event) -> String {
    assert_eq!(event.entry.revision, event.revision);
    let sign = match event.kind {
        EventKind::Put if event.creates() => '+',
        EventKind::Put => '~',
        EventKind::Delete => '-',
    };
    format!("{sign}{}", shown(&event.entry))
}

async fn next(changes: &mut Changes) -> Arc<Event> {
    let event = tokio::time::timeout(PATIENCE, changes.next()).await.expect("an event comes");
    event.expect("the watch goes on")
}

async fn expect_events(changes: &mut Changes, expected: &[&str]) {
    let mut events = Vec::new();
    for _ in expected {
        events.push(event_text(&*next(changes).await));
    }
    assert_eq!(events, expected);
}
