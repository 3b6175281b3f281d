//! Pod garbage collector: removes pods of nodes that are gone, pods that were deleted before they had a node, and the
//! oldest ended pods where there are too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use cache::BY_NODE;
use client::{DeleteOptions, ResourceId, Selection};
use http::Method;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::Value;

use crate::pods::{self, Owned, PODS};
use crate::{Config, Entry};

const NODES: ResourceId = ResourceId::new("", "v1", "nodes");
/// Ended pods that may stay.
const THRESHOLD: usize = 12_500;
/// How long a node must be missing before its pods go.
const QUARANTINE: Duration = Duration::from_secs(40);
const ENDED: &str = "ended";
const NODE: &str = "node";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "pod-garbage-collector", controller: Arc::new(PodGc { missing: Mutex::default() }) }
}

/// Keys are pods, `ended` (all ended pods) or `node|<name>` in place of the namespace and the name.
struct PodGc {
    missing: Mutex<HashMap<Arc<str>, Instant>>,
}

#[async_trait]
impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::mapped(Selection::of::<Pod>(), |context, old, new, add| {
                let Some(pod) = new else {
                    return;
                };
                let node = pod.header.field("spec.nodeName");
                if node.is_empty() {
                    if pod.header.deletion_timestamp.is_some() {
                        add(ObjectKey::of(pod));
                    }
                } else if context.cache::<Node>().get("", node).is_none() {
                    add(ObjectKey::new(&format!("|{NODE}"), node));
                }
                let ended = |entry: &Arc<store::Entry>| entry.header.project::<client::PodLite>().is_some_and(client::PodLite::is_finished);
                if ended(pod) && !old.is_some_and(ended) && context.cache::<Pod>().len() > THRESHOLD {
                    add(ObjectKey::new("|", ENDED));
                }
            }),
            Watch::mapped(Selection::of::<Node>(), |_, old, new, add| {
                if let (Some(node), None) = (old, new) {
                    add(ObjectKey::new(&format!("|{NODE}"), &node.header.name));
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        match key.namespace.strip_prefix('|') {
            Some(NODE) => self.node(context, &key.name).await,
            Some(_) => surplus(context).await,
            None => {
                let pod = context.cache::<Pod>().get(&key.namespace, &key.name).and_then(pods::lite);
                if let Some(pod) = pod.filter(|pod| pod.is_leaving() && !pod.lite.scheduled) {
                    remove(context, &pod).await?;
                }
                Ok(Next::Done)
            }
        }
    }
}

impl PodGc {
    async fn node(&self, context: &Context, name: &Arc<str>) -> Result<Next> {
        let pods = context.cache::<Pod>().by(&BY_NODE, name);
        if pods.is_empty() || context.cache::<Node>().get("", name).is_some() {
            self.missing.lock().remove(name);
            return Ok(Next::Done);
        }
        let since = *self.missing.lock().entry(name.clone()).or_insert_with(Instant::now);
        if let Some(left) = QUARANTINE.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) {
            return Ok(Next::After(left));
        }
        match context.client.call(Method::GET, &NODES.path("", name, ""), &Value::Null).await {
            Ok(_) => return Ok(Next::Done),
            Err(status) if status.is_not_found() => {}
            Err(status) => return Err(status.into()),
        }
        for entry in pods {
            if let (Some(pod), Some(owned)) = (cache::decode::<Pod>(&entry), pods::lite(entry)) {
                if !owned.lite.is_finished() {
                    pods::mark_disrupted(&context.client, &pod, "DeletionByPodGC", "PodGC: node no longer exists", Some("Failed")).await?;
                }
                remove(context, &owned).await?;
            }
        }
        self.missing.lock().remove(name);
        Ok(Next::Done)
    }
}

async fn surplus(context: &Context) -> Result<Next> {
    let mut ended: Vec<Owned> =
        context.cache::<Pod>().list().into_iter().filter_map(pods::lite).filter(|pod| pod.lite.is_finished()).collect();
    let count = ended.len().saturating_sub(THRESHOLD);
    ended.sort_by_key(|pod| pod.entry.created);
    for pod in ended.iter().take(count) {
        remove(context, pod).await?;
    }
    Ok(Next::Done)
}

async fn remove(context: &Context, pod: &Owned) -> Result<()> {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(&*pod.entry.header.uid) };
    match context.client.delete(&PODS, &pod.entry.header.namespace, pod.name(), &options).await {
        Err(status) if !status.is_not_found() && !status.is_conflict() => Err(status.into()),
        _ => Ok(()),
    }
}
