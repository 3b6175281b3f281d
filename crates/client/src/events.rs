//! Records what happened to an object as Events, so that `kubectl describe` tells the story.
//!
//! Equal events are counted in one object, as clients expect; recording never fails its caller and never waits. What is
//! recorded within a moment is written at once, so that a thousand pods that are scheduled do not cost a thousand waits for
//! the disk.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Client, PatchKind, ResourceId};

const EVENTS: ResourceId = ResourceId::new("", "v1", "events");
/// Equal events that are remembered for counting.
const REMEMBERED: usize = 1024;
/// Events waiting to be written; more are dropped rather than kept.
const WAITING: usize = 1024;
/// How long the first event waits for others that are written with it.
const MOMENT: Duration = Duration::from_millis(20);
/// Events that are written at once.
const AT_ONCE: usize = 64;

/// Type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Writes events of one component.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Pending>,
    component: Arc<str>,
    host: Arc<str>,
}

struct Pending {
    regarding: Value,
    kind: EventKind,
    reason: String,
    message: String,
    time: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    uid: String,
    field: String,
    reason: String,
    message: String,
}

struct Counted {
    namespace: String,
    name: String,
    count: u32,
}

impl Recorder {
    /// A recorder for a component, for example `kubelet` on a host (empty for none).
    pub fn new(client: Client, component: &str, host: &str) -> Recorder {
        let (queue, waiting) = mpsc::channel(WAITING);
        let recorder = Recorder { queue, component: component.into(), host: host.into() };
        let source = json!({"component": component, "host": host});
        tokio::spawn(write_all(client, source, component.to_owned(), host.to_owned(), waiting));
        recorder
    }

    /// The component that records.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// The host that records, empty for none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Records an event about an object reference (`kind`, `namespace`, `name`, `uid`, `apiVersion`, optionally `fieldPath`).
    pub fn record(&self, regarding: Value, kind: EventKind, reason: &str, message: impl Into<String>) {
        let mut message: String = message.into();
        if message.len() > 1024 {
            let end = (0..=1020).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
            message.push_str("...");
        }
        let pending = Pending { regarding, kind, reason: reason.to_owned(), message, time: Timestamp::now() };
        if self.queue.try_send(pending).is_err() {
            tracing::debug!(reason, "event dropped");
        }
    }
}

/// Events that tell the same, in one moment.
struct Batched {
    event: Pending,
    last: Timestamp,
    count: u32,
}

struct Writer {
    client: Client,
    source: Value,
    component: String,
    host: String,
}

async fn write_all(client: Client, source: Value, component: String, host: String, mut waiting: mpsc::Receiver<Pending>) {
    let writer = Writer { client, source, component, host };
    let mut known: HashMap<Same, Counted> = HashMap::new();
    let mut pending = Vec::new();
    while let Some(first) = waiting.recv().await {
        pending.push(first);
        tokio::time::sleep(MOMENT).await;
        while let Ok(next) = waiting.try_recv() {
            pending.push(next);
        }
        while !pending.is_empty() {
            let now: Vec<Pending> = pending.drain(..pending.len().min(AT_ONCE)).collect();
            let batch = batched(now).into_iter().map(|(same, batched)| {
                let counted = known.remove(&same);
                let writer = &writer;
                async move { (same, writer.write(batched, counted).await) }
            });
            let written = join_all(batch.collect::<Vec<_>>()).await;
            if known.len() + written.len() > REMEMBERED {
                known.clear();
            }
            known.extend(written.into_iter().filter_map(|(same, counted)| Some((same, counted?))));
        }
    }
}

/// Counts equal events, in the order in which they came.
fn batched(events: Vec<Pending>) -> Vec<(Same, Batched)> {
    let mut batch: Vec<(Same, Batched)> = Vec::with_capacity(events.len());
    let mut places: HashMap<Same, usize> = HashMap::with_capacity(events.len());
    for event in events {
        let text = |field: &str| event.regarding[field].as_str().unwrap_or("").to_owned();
        let same = Same { uid: text("uid"), field: text("fieldPath"), reason: event.reason.clone(), message: event.message.clone() };
        match places.entry(same) {
            Entry::Occupied(place) => {
                let (_, batched) = &mut batch[*place.get()];
                batched.count += 1;
                batched.last = event.time;
            }
            Entry::Vacant(place) => {
                let same = place.key().clone();
                place.insert(batch.len());
                batch.push((same, Batched { last: event.time, event, count: 1 }));
            }
        }
    }
    batch
}

impl Writer {
    /// Counts on where the same was told before, else makes an object; what is to be remembered of it.
    async fn write(&self, batched: Batched, known: Option<Counted>) -> Option<Counted> {
        let Batched { event, last, count } = batched;
        let last = format!("{last:.0}");
        if let Some(known) = known {
            let count = known.count + count;
            let patch = json!({"count": count, "lastTimestamp": last});
            if self.client.patch(&EVENTS, &known.namespace, &known.name, "", &PatchKind::Merge, &patch).await.is_ok() {
                return Some(Counted { count, ..known });
            }
        }
        let text = |field: &str| event.regarding[field].as_str().unwrap_or("");
        let namespace = Some(text("namespace")).filter(|namespace| !namespace.is_empty()).unwrap_or("default").to_owned();
        let name = format!("{}.{:x}", text("name"), event.time.as_nanosecond());
        let object = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": event.regarding, "reason": event.reason, "message": event.message,
            "type": format!("{:?}", event.kind), "count": count, "firstTimestamp": format!("{:.0}", event.time), "lastTimestamp": last,
            "source": self.source, "reportingComponent": self.component, "reportingInstance": self.host,
        });
        match self.client.tell(http::Method::POST, &EVENTS.collection_path(&namespace), &object).await {
            Ok(()) => Some(Counted { namespace, name, count }),
            Err(status) => {
                tracing::debug!(%status, "event was not written");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_events_of_a_moment_are_one() {
        let event = |uid: &str, second: i64| Pending {
            regarding: json!({"uid": uid, "name": "p"}),
            kind: EventKind::Normal,
            reason: "Scheduled".into(),
            message: "assigned".into(),
            time: Timestamp::from_second(second).unwrap(),
        };
        let batch = batched(vec![event("a", 1), event("b", 2), event("a", 3)]);
        let found: Vec<_> = batch
            .iter()
            .map(|(same, batched)| (&*same.uid, batched.event.time.as_second(), batched.last.as_second(), batched.count))
            .collect();
        assert_eq!(found, [("a", 1, 3, 2), ("b", 2, 2, 1)]);
    }
}
