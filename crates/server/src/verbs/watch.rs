//! Follows the changes of a selection: a cursor into the store's history, encoded as it is read.
//!
//! # Guarantees
//!
//! * Nothing between the start and the first event is lost or doubled.
//! * An object that enters the selection is ADDED, one that leaves it is DELETED, whatever happened to it otherwise.
//! * Bookmarks go only to those who asked.

use std::sync::Arc;
use std::time::Duration;

use api::{Causes, Object, Status};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderValue, StatusCode};
use rand::Rng;
use serde_json::{Value, json};
use store::{At, Changes, Entry, Event, EventKind, Limit, Range, Revision, WatchError};
use tokio::time::{Instant, Interval, Sleep, interval_at, sleep};

use super::list::parse_version;
use crate::body::{BoxError, ResponseBody};
use crate::catalog::Served;
use crate::failure;
use crate::pace::Pace;
use crate::query::Query;
use crate::request::{Reply, Request, reply};
use crate::selection::Selected;
use crate::server::Server;
use crate::steps::encode::{self, Media, Negotiated, Shape};
use crate::websocket;

/// How often a bookmark is due.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Shortest time that a watch without a timeout of its own lasts.
const SHORTEST: u64 = 1800;
/// How many events are taken from the history at once.
const BATCH: usize = 64;

/// Where a watch begins.
enum Begin {
    /// After this revision.
    After(Revision),
    /// With all objects, as they are at this revision or later, then what follows.
    Initial(Option<Revision>),
    /// Now.
    Now,
}

/// Answers with a stream of events.
///
/// # Errors
/// 400 and 422 for bad options; a start that is too old is an event of the stream.
pub async fn watch(server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
    let selected = Selected::read(&request.served, &request.allowed.attributes().namespace, &request.query)?;
    let (begin, mark_initial) = begin(&request.query)?;
    let seconds = request.query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    let seconds = seconds.map_or_else(|| rand::rng().random_range(SHORTEST..2 * SHORTEST), |seconds| seconds as u64);
    let bookmarks = request.query.flag("allowWatchBookmarks");
    let future = match begin {
        Begin::Initial(Some(revision)) => reached(server, &selected, revision).await.err(),
        _ => None,
    };
    let snapshot = server.store.mvcc().snapshot(&selected.prefix.kind);
    let after = match begin {
        Begin::After(revision) => revision,
        Begin::Initial(_) | Begin::Now => snapshot.revision(),
    };
    let mut encoder = Encoder {
        server: server.clone(),
        served: request.served.clone(),
        negotiated: request.negotiated,
        query: request.query.clone(),
        first: true,
    };
    let mut out = BytesMut::new();
    if let Some(status) = future {
        encoder.error(&status, &mut out)?;
        return Ok(reply(StatusCode::OK, stream_type(&request.negotiated), out.freeze()));
    }
    if matches!(begin, Begin::Initial(_)) {
        for entry in snapshot.under(&selected.prefix).filter(|entry| selected.matches(entry)) {
            encoder.event("ADDED", entry, &mut out)?;
        }
        if mark_initial && bookmarks {
            encoder.bookmark(snapshot.revision(), true, &mut out)?;
        }
    }
    let changes = server.store.watch(selected.prefix.clone(), after, selected.filter.clone());
    let content_type = stream_type(&request.negotiated);
    let deadline = Box::pin(sleep(Duration::from_secs(seconds)));
    let state = match changes {
        Ok(changes) => {
            let first = Instant::now() + BOOKMARK_EVERY;
            let bookmarks = bookmarks.then(|| interval_at(first, BOOKMARK_EVERY));
            let pace = server.crowds.join(&selected.prefix, &selected.filter);
            State { changes, selected, encoder, deadline, bookmarks, bookmarked: after, pace, initial: Some(out.freeze()), ended: false }
        }
        Err(error) => {
            encoder.error(&too_old(error, after), &mut out)?;
            return Ok(reply(StatusCode::OK, content_type, out.freeze()));
        }
    };
    let body = stream::unfold(state, |mut state| async move { state.next().await.map(|bytes| (Ok::<Bytes, BoxError>(bytes), state)) });
    let shutdown = server.shutdown.clone();
    let body = futures_util::StreamExt::take_until(body, async move { shutdown.cancelled().await });
    if let Some(socket) = websocket::take(&mut request.parts) {
        return Ok(websocket::watch(server, socket, request.negotiated.media, body));
    }
    let mut answer = reply(StatusCode::OK, content_type, Bytes::new());
    *answer.body_mut() = ResponseBody::Stream(Box::pin(body));
    answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    encode::finish(&request, &mut answer, Vec::new());
    Ok(answer)
}

/// Waits until the store has reached a revision, as long as a list would.
async fn reached(server: &Server, selected: &Selected, revision: Revision) -> Result<(), Status> {
    let range = Range { prefix: selected.prefix.clone(), start_after: None };
    server.store.list(range, At::NotOlderThan(revision), Limit::page(1)).await.map(drop).map_err(failure::read)
}

fn stream_type(negotiated: &Negotiated) -> &'static str {
    match negotiated.media {
        Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Media::Yaml => "application/yaml",
        Media::Json => "application/json",
    }
}

fn begin(query: &Query) -> Result<(Begin, bool), Status> {
    let version = query.text("resourceVersion");
    let rule = query.text("resourceVersionMatch");
    let initial = query.tristate("sendInitialEvents");
    let mut causes = Causes::default();
    match initial {
        Some(_) if rule != "NotOlderThan" => {
            causes.forbidden("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        None if !rule.is_empty() => {
            causes.forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        _ => {}
    }
    if !matches!(rule, "" | "NotOlderThan") {
        causes.not_supported("resourceVersionMatch", &Value::from(rule), &["NotOlderThan"]);
    }
    if !query.text("continue").is_empty() {
        causes.forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
    }
    if !causes.is_empty() {
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &causes));
    }
    // Unlike for lists, the real server has no reason for a version that is none.
    let revision = parse_version(version).map_err(|_| failure::unexplained(failure::no_version(version)))?;
    let revision = revision.filter(|revision| *revision > Revision::ZERO);
    Ok(match (initial, revision) {
        (Some(true), revision) => (Begin::Initial(revision), true),
        (_, Some(revision)) => (Begin::After(revision), false),
        (Some(false), None) => (Begin::Now, false),
        (None, None) => (Begin::Initial(None), false),
    })
}

/// The error event for a start or position that is not kept any more.
fn too_old(error: WatchError, after: Revision) -> Status {
    match error {
        WatchError::TooOld { floor } => Status::expired(format!("too old resource version: {after} ({floor})")),
        WatchError::Closed => Status::internal("the store is closed"),
    }
}

struct State {
    changes: Changes,
    selected: Selected,
    encoder: Encoder,
    deadline: std::pin::Pin<Box<Sleep>>,
    bookmarks: Option<Interval>,
    bookmarked: Revision,
    pace: Pace,
    initial: Option<Bytes>,
    ended: bool,
}

impl State {
    /// The next bytes, `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(initial) = self.initial.take().filter(|initial| !initial.is_empty()) {
            return Some(initial);
        }
        while !self.ended {
            let mut out = BytesMut::new();
            tokio::select! {
                batch = next_batch(&mut self.pace, &mut self.changes) => match batch {
                    Ok(events) => {
                        self.events(&events, &mut out);
                        if !out.is_empty() {
                            self.pace.wrote(Instant::now());
                        }
                    }
                    Err(error) => {
                        self.ended = true;
                        let status = too_old(error, self.bookmarked);
                        self.encoder.error(&status, &mut out).ok()?;
                    }
                },
                () = tick(&mut self.bookmarks) => {
                    let progress = self.changes.progress();
                    if progress > self.bookmarked {
                        self.bookmarked = progress;
                        self.encoder.bookmark(progress, false, &mut out).ok()?;
                    }
                },
                () = &mut self.deadline => return None,
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
        None
    }

    fn events(&mut self, events: &[Arc<Event>], out: &mut BytesMut) {
        for event in events {
            let Some(kind) = transition(&self.selected, event) else { continue };
            let result = match kind {
                "DELETED" if event.kind == EventKind::Put => match restamped(event) {
                    Some(last) => self.encoder.event(kind, &last, out),
                    None => self.encoder.event(kind, &event.entry, out),
                },
                _ => self.encoder.event(kind, &event.entry, out),
            };
            if let Err(status) = result {
                self.ended = true;
                if self.encoder.error(&status, out).is_err() {
                    return;
                }
            }
            self.bookmarked = event.revision;
        }
    }
}

/// What an event is to somebody who watches a selection; `None` if it does not concern them.
pub fn transition(selected: &Selected, event: &Event) -> Option<&'static str> {
    let before = event.previous.as_ref().is_some_and(|previous| selected.matches(previous));
    let after = event.kind == EventKind::Put && selected.matches(&event.entry);
    match (before, after) {
        (false, true) => Some("ADDED"),
        (true, true) => Some("MODIFIED"),
        (true, false) => Some("DELETED"),
        (false, false) if event.kind == EventKind::Delete && event.previous.is_none() && selected.matches(&event.entry) => Some("DELETED"),
        (false, false) => None,
    }
}

/// The version before an object left the selection, with the revision at which it left.
pub fn restamped(event: &Event) -> Option<Arc<Entry>> {
    let previous = event.previous.as_ref()?;
    let (bytes, header) = client::header::stamp()(&previous.key, previous.bytes.clone(), event.revision).ok()?;
    Some(Arc::new(Entry::new(previous.key.clone(), event.revision, previous.created, bytes, header)))
}

/// The changes that have gathered by the time that the next write may go out.
async fn next_batch(pace: &mut Pace, changes: &mut Changes) -> Result<Vec<Arc<Event>>, WatchError> {
    pace.turn().await;
    changes.next_batch(BATCH).await
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Writes events in the form that was negotiated.
struct Encoder {
    server: Arc<Server>,
    served: Arc<Served>,
    negotiated: Negotiated,
    query: Query,
    first: bool,
}

impl Encoder {
    fn event(&mut self, kind: &str, entry: &Arc<Entry>, out: &mut BytesMut) -> Result<(), Status> {
        let plain = Negotiated { pretty: false, ..self.negotiated };
        let mut bytes = encode::entry_bytes(&self.served, &plain, &self.query, Some(self.server.store.derived()), entry)?;
        if plain.shape == Shape::Table {
            bytes = self.table(bytes)?;
        }
        self.frame(kind, &bytes, out);
        Ok(())
    }

    /// Only the first table of a watch has columns.
    fn table(&mut self, bytes: Bytes) -> Result<Bytes, Status> {
        if std::mem::replace(&mut self.first, false) {
            return Ok(bytes);
        }
        let mut table = codec::json::parse(&bytes).map_err(Status::internal)?;
        if let Some(table) = table.as_object_mut() {
            table.insert("columnDefinitions".into(), Value::Null);
        }
        Ok(Bytes::from(table.to_string()))
    }

    fn frame(&self, kind: &str, object: &[u8], out: &mut BytesMut) {
        match self.negotiated.media {
            Media::Protobuf => out.put_slice(&codec::protobuf::event(kind, object)),
            Media::Json => {
                // One allocation for the event instead of one per doubling.
                out.reserve(object.len() + 64);
                out.put_slice(b"{\"type\":\"");
                out.put_slice(kind.as_bytes());
                out.put_slice(b"\",\"object\":");
                out.put_slice(object.trim_ascii_end());
                out.put_slice(b"}\n");
            }
            Media::Yaml => {
                let object = codec::yaml::parse(object).unwrap_or(Value::Null);
                out.put_slice(b"---\n");
                out.put_slice(codec::yaml::encode(&json!({"type": kind, "object": object})).as_bytes());
            }
        }
    }

    fn bookmark(&mut self, revision: Revision, end_of_initial: bool, out: &mut BytesMut) -> Result<(), Status> {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let served = &self.served;
        let mut object = Object::from_value(json!({"kind": &*served.def.kind, "apiVersion": served.api_version, "metadata": metadata}))
            .expect("a literal object");
        if self.negotiated.shape != Shape::Table && served.custom.is_none() {
            codec::normalize(&mut object, served.schema());
        }
        let plain = Negotiated { pretty: false, ..self.negotiated };
        if plain.shape == Shape::Table {
            let table = json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}],
            });
            self.frame("BOOKMARK", table.to_string().as_bytes(), out);
            return Ok(());
        }
        let bytes = encode::object_bytes(served, &plain, &self.query, &object)?;
        self.frame("BOOKMARK", &bytes, out);
        Ok(())
    }

    fn error(&mut self, status: &Status, out: &mut BytesMut) -> Result<(), Status> {
        let bytes = match self.negotiated.media {
            Media::Protobuf => codec::protobuf::status(status),
            Media::Json | Media::Yaml => Bytes::from(status.to_value().to_string()),
        };
        self.frame("ERROR", &bytes, out);
        Ok(())
    }
}
