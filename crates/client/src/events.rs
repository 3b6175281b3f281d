//! Records what happened to an object as Events, so that `kubectl describe` tells the story.
//!
//! Equal events are counted in one object, as clients expect; recording never fails its caller and never waits.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Client, PatchKind, ResourceId};

const EVENTS: ResourceId = ResourceId::new("", "v1", "events");
/// Equal events that are remembered for counting.
const REMEMBERED: usize = 1024;
/// Events waiting to be written; more are dropped rather than kept.
const WAITING: usize = 1024;

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

#[derive(PartialEq, Eq, Hash)]
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

async fn write_all(client: Client, source: Value, component: String, host: String, mut waiting: mpsc::Receiver<Pending>) {
    let mut known: HashMap<Same, Counted> = HashMap::new();
    while let Some(event) = waiting.recv().await {
        let text = |field: &str| event.regarding[field].as_str().unwrap_or("").to_owned();
        let same = Same { uid: text("uid"), field: text("fieldPath"), reason: event.reason.clone(), message: event.message.clone() };
        let time = format!("{:.0}", event.time);
        if let Some(counted) = known.get_mut(&same) {
            counted.count += 1;
            let patch = json!({"count": counted.count, "lastTimestamp": time});
            if client.patch(&EVENTS, &counted.namespace, &counted.name, "", &PatchKind::Merge, &patch).await.is_ok() {
                continue;
            }
            known.remove(&same);
        }
        let namespace = Some(text("namespace")).filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".into());
        let name = format!("{}.{:x}", text("name"), event.time.as_nanosecond());
        let object = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": event.regarding, "reason": event.reason, "message": event.message,
            "type": format!("{:?}", event.kind), "count": 1, "firstTimestamp": time, "lastTimestamp": time,
            "source": source, "reportingComponent": component, "reportingInstance": host,
        });
        let path = EVENTS.collection_path(&namespace);
        match client.call(http::Method::POST, &path, &object).await {
            Ok(_) => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(same, Counted { namespace, name, count: 1 });
            }
            Err(status) => tracing::debug!(%status, "event was not written"),
        }
    }
}
