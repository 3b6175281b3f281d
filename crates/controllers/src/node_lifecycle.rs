//! Node lifecycle: a node that says nothing is unknown; conditions become taints; pods of a lost node are not ready.
//!
//! Heartbeats are judged by when they were seen, not by the times that they carry: clocks of nodes differ. The times
//! of observation live in memory; a new process gives every node one full grace period.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use cache::BY_NODE;
use client::{EventKind, PatchKind, Selection};
use futures_util::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::json;

use crate::node_view::NodeView;
use crate::pods::{self, PODS};
use crate::{Config, Entry, moment};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that are taints while they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];
/// Time that a node has for its first status.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// The controller.
pub fn controller(config: &Config) -> Entry {
    let controller =
        NodeLifecycle { grace: config.node_monitor_grace, heartbeats: Arc::default(), ready: Arc::default(), known: Mutex::default() };
    Entry { account: "node-controller", controller: Arc::new(controller) }
}

struct NodeLifecycle {
    grace: Duration,
    heartbeats: Arc<Mutex<HashMap<Box<str>, Heartbeat>>>,
    /// The nodes that are ready.
    ready: Arc<Mutex<HashSet<Box<str>>>>,
    known: Mutex<HashSet<String>>,
}

/// The last sign of life of a node.
struct Heartbeat {
    seen: Instant,
    /// `lastHeartbeatTime` of the condition Ready when it was seen, empty for none.
    posted: Box<str>,
}

#[async_trait]
impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let (heartbeats, ready) = (self.heartbeats.clone(), self.ready.clone());
        vec![
            Watch::mapped(Selection::of::<Node>(), move |context, old, new, add| {
                let Some(entry) = new.or(old) else {
                    return;
                };
                add(ObjectKey::of(entry));
                let is_ready = new.is_some_and(|entry| NodeView::of(entry).is_ready());
                let mut ready = ready.lock();
                let nobody = ready.is_empty();
                match is_ready {
                    true => ready.insert(entry.header.name.clone()),
                    false => ready.remove(&entry.header.name),
                };
                // Whether anybody is left decides about all.
                if ready.is_empty() != nobody {
                    context.cache::<Node>().list().iter().for_each(|entry| add(ObjectKey::of(entry)));
                }
            }),
            // A lease is only noted; its absence is found when the grace is over.
            Watch::mapped(leases(), move |_, _, new, _| {
                if let Some(lease) = new {
                    let mut heartbeats = heartbeats.lock();
                    match heartbeats.get_mut(&lease.header.name) {
                        Some(known) => known.seen = Instant::now(),
                        None => {
                            drop(heartbeats.insert(lease.header.name.clone(), Heartbeat { seen: Instant::now(), posted: Box::default() }))
                        }
                    }
                }
            }),
            Watch::read(Selection::of::<Pod>()),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(entry) = context.cache::<Node>().get("", &key.name) else {
            self.heartbeats.lock().remove(&*key.name);
            if self.known.lock().remove(&*key.name) {
                let gone = json!({"apiVersion": "v1", "kind": "Node", "name": &*key.name, "uid": &*key.name});
                context.recorder.record(
                    gone,
                    EventKind::Normal,
                    "RemovingNode",
                    format!("Node {0} event: Removing Node {0} from Controller", key.name),
                );
            }
            return Ok(Next::Done);
        };
        let view = NodeView::of(&entry);
        if self.known.lock().insert(key.name.to_string()) {
            let regarding = json!({"apiVersion": "v1", "kind": "Node", "name": &*key.name, "uid": &*entry.header.uid, "resourceVersion": entry.revision.to_string()});
            context.recorder.record(
                regarding,
                EventKind::Normal,
                "RegisteredNode",
                format!("Node {0} event: Registered Node {0} in Controller", key.name),
            );
        }
        let silent = self.silent(&key.name, &view);
        let grace = if view.condition("Ready").is_some() { self.grace } else { STARTUP_GRACE };
        let wait = grace.checked_sub(silent).filter(|left| !left.is_zero());
        if let Some(left) = wait.filter(|_| is_well(&view)) {
            return Ok(Next::After(left + Duration::from_millis(100)));
        }
        let Some(mut node) = cache::decode::<Node>(&entry) else {
            return Ok(Next::Done);
        };
        if wait.is_none() {
            node = declare_unknown(context, node).await?;
        }
        if ready_condition(&node).is_some_and(|ready| ready.status != "True") {
            mark_pods_not_ready(context, &key.name).await?;
        }
        let someone_ready = is_ready(&node) || !self.ready.lock().is_empty();
        taint(context, node, someone_ready).await?;
        Ok(wait.map_or(Next::Done, |left| Next::After(left + Duration::from_millis(100))))
    }
}

fn leases() -> Selection {
    Selection::of::<Lease>().in_namespace("kube-node-lease")
}

fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    condition(node, "Ready")
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn is_ready(node: &Node) -> bool {
    ready_condition(node).is_some_and(|ready| ready.status == "True")
}

impl NodeLifecycle {
    /// Time since the last sign of life that we saw.
    fn silent(&self, name: &str, node: &NodeView<'_>) -> Duration {
        let posted = node.condition("Ready").map_or("", |ready| &ready.last_heartbeat_time);
        let mut heartbeats = self.heartbeats.lock();
        let known = heartbeats.entry(name.into()).or_insert_with(|| Heartbeat { seen: Instant::now(), posted: posted.into() });
        if *known.posted != *posted {
            *known = Heartbeat { seen: Instant::now(), posted: posted.into() };
        }
        known.seen.elapsed()
    }
}

/// Whether a node is Ready and neither has nor needs a taint of ours: most nodes, nearly always.
fn is_well(node: &NodeView<'_>) -> bool {
    let pressed = |kind: &str| node.condition(kind).is_some_and(|condition| condition.status == "True");
    node.is_ready()
        && !node.spec.unschedulable
        && !PRESSURES.iter().any(|(kind, _)| pressed(kind))
        && !node.spec.taints.iter().any(|taint| is_managed(&taint.key, &taint.effect))
}

/// Conditions of a node that does not answer; `None` if they are so already.
fn unknown_conditions(node: &Node) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let before = conditions.clone();
    let now = moment::now();
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(now.clone()),
            }),
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(now.clone());
            }
            Some(_) => {}
        }
    }
    (conditions != before).then_some(conditions)
}

async fn declare_unknown(context: &Context, mut node: Node) -> Result<Node> {
    let Some(conditions) = unknown_conditions(&node) else {
        return Ok(node);
    };
    let was_ready = is_ready(&node);
    node.status.get_or_insert_default().conditions = Some(conditions);
    let node = context.client.update_status(&node).await?;
    if was_ready {
        let name = node.metadata.name.as_deref().unwrap_or("");
        context.event(&node, EventKind::Normal, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
    }
    Ok(node)
}

/// Pods on a node that is not ready are not ready either.
async fn mark_pods_not_ready(context: &Context, node: &str) -> Result<()> {
    let pods = context.cache::<Pod>().by(&BY_NODE, node).into_iter().filter_map(pods::lite).filter(|pod| pod.lite.ready);
    try_join_all(pods.map(|pod| async move {
        let patch = json!({"metadata": {"uid": &*pod.entry.header.uid}, "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": moment::now()}]}});
        match context.client.patch(&PODS, &pod.entry.header.namespace, pod.name(), "status", &PatchKind::Strategic, &patch).await {
            Err(status) if !status.is_not_found() && !status.is_conflict() => return Err(status),
            _ => {}
        }
        let regarding = json!({"apiVersion": "v1", "kind": "Pod", "namespace": &*pod.entry.header.namespace, "name": pod.name(), "uid": &*pod.entry.header.uid});
        context.recorder.record(regarding, EventKind::Warning, "NodeNotReady", "Node is not ready");
        Ok(())
    }))
    .await?;
    Ok(())
}

/// The taints that the conditions of a node mean: (key, effect). Evicting taints only while some node is well.
fn wanted_taints(node: &Node, someone_ready: bool) -> Vec<(&'static str, &'static str)> {
    let mut taints = Vec::new();
    let lost = match ready_condition(node).map(|ready| ready.status.as_str()) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    if let Some(key) = lost {
        taints.push((key, "NoSchedule"));
        if someone_ready {
            taints.push((key, "NoExecute"));
        }
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            taints.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        taints.push((UNSCHEDULABLE, "NoSchedule"));
    }
    taints
}

/// Whether a taint is ours to take away.
fn is_managed(key: &str, effect: &str) -> bool {
    let condition = [NOT_READY, UNREACHABLE].contains(&key);
    match effect {
        "NoExecute" => condition,
        "NoSchedule" => condition || key == UNSCHEDULABLE || PRESSURES.iter().any(|(_, taint)| *taint == key),
        _ => false,
    }
}

fn retainted(node: &Node, someone_ready: bool) -> Option<Vec<Taint>> {
    let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    // Nobody has judged a node without the condition; its first taint is that of admission.
    if ready_condition(node).is_none() {
        return None;
    }
    let wanted = wanted_taints(node, someone_ready);
    let mut taints: Vec<Taint> = before
        .iter()
        .filter(|taint| !is_managed(&taint.key, &taint.effect) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added: Some(moment::now()) });
        }
    }
    (taints != before).then_some(taints)
}

async fn taint(context: &Context, mut node: Node, someone_ready: bool) -> Result<()> {
    if let Some(taints) = retainted(&node, someone_ready) {
        node.spec.get_or_insert_default().taints = Some(taints);
        context.client.update(&node).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(conditions: &[(&str, &str)], taints: &[(&str, &str)], unschedulable: bool) -> Node {
        let conditions: Vec<_> = conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        let taints: Vec<_> = taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints, "unschedulable": unschedulable}, "status": {"conditions": conditions}})).unwrap()
    }

    fn check(node: &Node, someone_ready: bool, wanted: Option<&[(&str, &str)]>) {
        let found = retainted(node, someone_ready);
        let found: Option<Vec<(&str, &str)>> =
            found.as_ref().map(|taints| taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect());
        assert_eq!(found.as_deref(), wanted);
    }

    #[test]
    fn conditions_become_taints() {
        check(&node(&[("Ready", "True")], &[], false), true, None);
        check(
            &node(&[("Ready", "True")], &[("own", "NoSchedule"), (NOT_READY, "NoSchedule"), (UNREACHABLE, "NoExecute")], false),
            true,
            Some(&[("own", "NoSchedule")]),
        );
        check(&node(&[("Ready", "Unknown")], &[], false), true, Some(&[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]));
        check(&node(&[("Ready", "Unknown")], &[(UNREACHABLE, "NoExecute")], false), false, Some(&[(UNREACHABLE, "NoSchedule")]));
        check(
            &node(&[("Ready", "True"), ("DiskPressure", "True")], &[], true),
            true,
            Some(&[("node.kubernetes.io/disk-pressure", "NoSchedule"), (UNSCHEDULABLE, "NoSchedule")]),
        );
        check(&node(&[], &[(NOT_READY, "NoSchedule")], false), true, None);
    }

    #[test]
    fn silence_is_unknown() {
        let conditions = unknown_conditions(&node(&[("Ready", "True"), ("DiskPressure", "Unknown")], &[], false)).unwrap();
        let found: Vec<_> = conditions.iter().map(|one| (one.type_.as_str(), one.status.as_str(), one.reason.as_deref())).collect();
        assert_eq!(found[0], ("Ready", "Unknown", Some("NodeStatusUnknown")));
        assert_eq!(found[1], ("DiskPressure", "Unknown", None));
        assert_eq!(found[2], ("MemoryPressure", "Unknown", Some("NodeStatusNeverUpdated")));
    }
}
