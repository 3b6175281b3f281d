//! Taint eviction: removes pods from nodes with taints `NoExecute` that they do not tolerate, or not for longer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use cache::BY_NODE;
use client::{DeleteOptions, EventKind, Selection, node_fit};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::node_view::NodeView;
use crate::pods::{self, PODS};
use crate::{Config, Entry};

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "node-controller", controller: Arc::new(TaintEviction::default()) }
}

#[derive(Default)]
struct TaintEviction {
    /// When the clock of a pod that tolerates for a while began to run; by uid.
    began: Arc<Mutex<HashMap<Box<str>, Instant>>>,
    /// The nodes with taints that evict, so that a pod's binding asks nothing of the others.
    taints: Arc<Mutex<HashMap<Box<str>, Vec<Taint>>>>,
}

#[async_trait]
impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let (taints, evicting_now, clocks) = (self.taints.clone(), self.taints.clone(), self.began.clone());
        vec![
            Watch::mapped(Selection::of::<Pod>(), move |_, old, new, add| {
                // Without a taint that evicts anywhere nobody has to go, and no clock runs.
                if evicting_now.lock().is_empty() && clocks.lock().is_empty() {
                    return;
                }
                let node = |entry: Option<&Arc<store::Entry>>| {
                    entry.map(|entry| entry.header.field("spec.nodeName").to_owned()).unwrap_or_default()
                };
                let moved = new.is_none()
                    || node(old) != node(new)
                    || old.zip(new).is_some_and(|(old, new)| old.header.generation != new.header.generation);
                if let Some(entry) = new.or(old).filter(|_| moved) {
                    add(ObjectKey::of(entry));
                }
            }),
            Watch::mapped(Selection::of::<Node>(), move |context, old, new, add| {
                let after = new.map(|entry| evicting(&NodeView::of(entry))).unwrap_or_default();
                let Some(name) = new.or(old).map(|entry| &entry.header.name) else {
                    return;
                };
                let before = match after.is_empty() {
                    true => taints.lock().remove(name),
                    false => taints.lock().insert(name.clone(), after.clone()),
                };
                let Some(node) = new.filter(|_| before.unwrap_or_default() != after) else {
                    return;
                };
                context.cache::<Pod>().by(&BY_NODE, &node.header.name).iter().for_each(|pod| add(ObjectKey::of(pod)));
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(entry) = context.cache::<Pod>().get(&key.namespace, &key.name).filter(|pod| pod.header.deletion_timestamp.is_none())
        else {
            self.forget_all_but(context);
            return Ok(Next::Done);
        };
        let taints = self.taints.lock().get(entry.header.field("spec.nodeName")).cloned().unwrap_or_default();
        if taints.is_empty() {
            self.cancel(context, &entry);
            return Ok(Next::Done);
        }
        let Some(pod) = cache::decode::<Pod>(&entry) else {
            return Ok(Next::Done);
        };
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        match stay(&taints, &tolerations) {
            Stay::Always => {
                self.cancel(context, &entry);
                Ok(Next::Done)
            }
            Stay::For(time) => {
                let began = *self.began.lock().entry(entry.header.uid.clone()).or_insert_with(Instant::now);
                match time.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
                    Some(left) => Ok(Next::After(left)),
                    None => evict(context, &pod).await,
                }
            }
            Stay::Not => evict(context, &pod).await,
        }
    }
}

impl TaintEviction {
    fn cancel(&self, context: &Context, entry: &store::Entry) {
        if self.began.lock().remove(&entry.header.uid).is_some() {
            let header = &entry.header;
            let regarding = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "namespace": &*header.namespace, "name": &*header.name, "uid": &*header.uid});
            context.recorder.record(
                regarding,
                EventKind::Normal,
                "TaintManagerEviction",
                format!("Cancelling deletion of Pod {}/{}", header.namespace, header.name),
            );
        }
    }

    /// Drops clocks of pods that are no more; there are few clocks.
    fn forget_all_but(&self, context: &Context) {
        let mut began = self.began.lock();
        if !began.is_empty() {
            let alive: std::collections::HashSet<Box<str>> =
                context.cache::<Pod>().list().iter().map(|pod| pod.header.uid.clone()).collect();
            began.retain(|uid, _| alive.contains(uid));
        }
    }
}

fn evicting(node: &NodeView<'_>) -> Vec<Taint> {
    let evicts = node.spec.taints.iter().filter(|taint| taint.effect == "NoExecute");
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    evicts
        .map(|taint| Taint { key: taint.key.to_string(), value: text(&taint.value), effect: "NoExecute".into(), time_added: None })
        .collect()
}

/// How long a pod may stay.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Always,
    For(Duration),
    Not,
}

fn stay(taints: &[Taint], tolerations: &[Toleration]) -> Stay {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let used: Vec<&Toleration> = tolerations.iter().filter(|one| node_fit::covers(one, taint)).collect();
        if used.is_empty() {
            return Stay::Not;
        }
        for seconds in used.iter().filter_map(|one| one.toleration_seconds) {
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
        }
    }
    match shortest {
        None => Stay::Always,
        Some(seconds) if seconds <= 0 => Stay::Not,
        Some(seconds) => Stay::For(Duration::from_secs(seconds as u64)),
    }
}

async fn evict(context: &Context, pod: &Pod) -> Result<Next> {
    let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or(""), pod.metadata.name.as_deref().unwrap_or(""));
    context.event(pod, EventKind::Normal, "TaintManagerEviction", format!("Marking for deletion Pod {namespace}/{name}"));
    pods::mark_disrupted(&context.client, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", None).await?;
    let options = DeleteOptions::uid(pod.metadata.uid.clone().unwrap_or_default());
    match context.client.delete(&PODS, namespace, name, &options).await {
        Err(status) if !status.is_not_found() && !status.is_conflict() => Err(status.into()),
        _ => Ok(Next::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stays() {
        let taint = |key: &str| -> Taint { serde_json::from_value(json!({"key": key, "value": "v", "effect": "NoExecute"})).unwrap() };
        let toleration = |value: serde_json::Value| -> Toleration { serde_json::from_value(value).unwrap() };
        let cases = [
            (vec![taint("a")], vec![], Stay::Not),
            (vec![taint("a")], vec![json!({"key": "a", "operator": "Exists"})], Stay::Always),
            (vec![taint("a")], vec![json!({"key": "a", "value": "v", "tolerationSeconds": 5})], Stay::For(Duration::from_secs(5))),
            (vec![taint("a")], vec![json!({"key": "a", "value": "other"})], Stay::Not),
            (vec![taint("a")], vec![json!({"operator": "Exists", "effect": "NoSchedule"})], Stay::Not),
            (
                vec![taint("a"), taint("b")],
                vec![json!({"operator": "Exists", "tolerationSeconds": 9}), json!({"key": "b", "value": "v", "tolerationSeconds": 3})],
                Stay::For(Duration::from_secs(3)),
            ),
            (vec![taint("a")], vec![json!({"operator": "Exists", "tolerationSeconds": 0})], Stay::Not),
        ];
        for (taints, tolerations, wanted) in cases {
            let tolerations: Vec<Toleration> = tolerations.into_iter().map(toleration).collect();
            assert_eq!(stay(&taints, &tolerations), wanted, "{tolerations:?}");
        }
    }
}
