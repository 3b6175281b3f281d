//! DaemonSet: one pod on every node that the template allows, updated node by node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use client::{EventKind, Selection, node_fit};
use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::daemon_plan::{self, DaemonPod, Place, Plan};
use crate::node_view::NodeView;
use crate::pods::{self, Owned};
use crate::revisions::{self, Ensured, HASH, Parent};
use crate::{Config, Entry, moment};

const GENERATION: &str = "pod-template-generation";
const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";
/// Pods made by one round at most.
const BURST: usize = 250;

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "daemon-set-controller", controller: Arc::new(DaemonSets::default()) }
}

#[derive(Default)]
struct DaemonSets {
    /// Failed pods in a row by set and node, with the time of the last: they are replaced ever more slowly.
    failures: Mutex<HashMap<(String, String), (u32, i64)>>,
}

#[async_trait]
impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<DaemonSet>()),
            Watch::owned_by(Selection::of::<Pod>(), "DaemonSet"),
            Watch::owned_by(Selection::of::<ControllerRevision>(), "DaemonSet"),
            Watch::mapped(Selection::of::<Pod>(), |context, _, new, add| {
                let Some(pod) = new.filter(|pod| pod.header.controller().is_none() && !pod.header.labels.is_empty()) else {
                    return;
                };
                for set in context.cache::<DaemonSet>().list_namespace(&pod.header.namespace) {
                    add(ObjectKey::of(&set));
                }
            }),
            Watch::mapped(Selection::of::<Node>(), |context, old, new, add| {
                let sets = context.cache::<DaemonSet>();
                if sets.is_empty() {
                    return;
                }
                let changed = match (old, new) {
                    (Some(old), Some(new)) => {
                        old.header.labels != new.header.labels || NodeView::of(old).spec.taints != NodeView::of(new).spec.taints
                    }
                    _ => true,
                };
                if changed {
                    sets.list().iter().for_each(|set| add(ObjectKey::of(set)));
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(set) = context.cache::<DaemonSet>().read::<DaemonSet>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let Some(spec) = set.spec.clone() else {
            return Ok(Next::Done);
        };
        let selector = LabelSelector::from_value(&serde_json::to_value(&spec.selector)?).map_err(anyhow::Error::msg)?;
        if selector.is_everything() {
            return Ok(Next::Done);
        }
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let owner = pods::controller_ref("apps/v1", "DaemonSet", &set.metadata);
        let mut history = revisions::of(context, &uid);
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let leaving = set.metadata.deletion_timestamp.is_some();
        let parent = Parent { metadata: &set.metadata, owner: owner.clone(), template: &spec.template, collisions, label: HASH };
        let hash = if leaving {
            history.last().and_then(hash_of).unwrap_or_default()
        } else {
            match revisions::ensure(context, &parent, &mut history).await? {
                Ensured::There(revision) => hash_of(&revision).unwrap_or_default(),
                Ensured::Collision => {
                    let mut status = set.status.clone().unwrap_or_default();
                    status.collision_count = Some(collisions.unwrap_or(0) + 1);
                    context.client.update_status(&DaemonSet { status: Some(status), ..set }).await?;
                    return Ok(Next::Done);
                }
            }
        };
        let owned = pods::claim(context, &set.metadata, &selector, &owner).await?;
        let min_ready = i64::from(spec.min_ready_seconds.unwrap_or(0));
        let nodes: Vec<Node> = context.cache::<Node>().list().iter().filter_map(|entry| cache::decode(entry)).collect();
        let generation = set.metadata.annotations.as_ref().and_then(|annotations| annotations.get(GENERATION_ANNOTATION)).cloned();
        let places = places(&spec.template, &nodes, &owned, &hash, min_ready);
        let counts = daemon_plan::count(&places);
        let (surge, unavailable) = daemon_plan::limits(&spec, counts.desired);
        let rolls = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
        let mut result = Ok(());
        let mut wait = None;
        if !leaving {
            let mut plan = daemon_plan::spread(&places, rolls && surge > 0);
            plan.delete.extend(homeless(&owned, &nodes));
            wait = self.hold_back(&uid, &mut plan, &owned);
            if plan == Plan::default() && rolls {
                plan = daemon_plan::roll(&places, surge, unavailable);
            }
            result = apply(context, &set, &spec.template, &hash, generation.as_deref(), &owned, plan).await;
        }
        let fresh = DaemonSetStatus {
            desired_number_scheduled: counts.desired,
            current_number_scheduled: counts.current,
            number_misscheduled: counts.misscheduled,
            number_ready: counts.ready,
            number_available: some(counts.available),
            number_unavailable: some(counts.desired - counts.available),
            updated_number_scheduled: some(counts.updated),
            observed_generation: set.metadata.generation,
            ..set.status.clone().unwrap_or_default()
        };
        if set.status.as_ref() != Some(&fresh) {
            context.client.update_status(&DaemonSet { status: Some(fresh), ..set.clone() }).await?;
        }
        result?;
        if !leaving {
            let live: BTreeSet<&str> = owned.iter().filter_map(|pod| pod.entry.header.label(HASH)).chain([hash.as_str()]).collect();
            let used = history
                .iter()
                .filter(|revision| hash_of(revision).is_some_and(|hash| live.contains(hash.as_str())))
                .filter_map(|revision| revision.metadata.name.clone())
                .collect();
            revisions::truncate(context, &history, &used, spec.revision_history_limit).await?;
        }
        if min_ready > 0 && counts.ready != counts.available {
            wait = Some(wait.map_or(min_ready, |seconds: i64| seconds.min(min_ready)));
        }
        Ok(wait.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds.max(1) as u64))))
    }
}

impl DaemonSets {
    /// Failed pods whose time has not come stay; the seconds until the first may go.
    fn hold_back(&self, uid: &str, plan: &mut Plan, owned: &[Owned]) -> Option<i64> {
        let now = moment::seconds();
        let mut failures = self.failures.lock();
        let mut wait: Option<i64> = None;
        plan.delete.retain(|place| {
            let pod = &owned[*place];
            if pod.lite.phase != client::Phase::Failed {
                return true;
            }
            let key = (uid.to_owned(), pod.entry.header.field("spec.nodeName").to_owned());
            let (count, last) = failures.get(&key).copied().unwrap_or((0, 0));
            let left = if count == 0 { 0 } else { last + (1i64 << (count - 1).min(10)).min(900) - now };
            if left > 0 {
                wait = Some(wait.map_or(left, |known| known.min(left)));
                return false;
            }
            let quiet = now - last > 1800;
            failures.insert(key, (if quiet { 1 } else { count + 1 }, now));
            true
        });
        wait
    }
}

fn some(count: i32) -> Option<i32> {
    (count > 0).then_some(count)
}

fn hash_of(revision: &ControllerRevision) -> Option<String> {
    revision.metadata.labels.as_ref()?.get(HASH).cloned()
}

/// The node that a pod is on or meant for.
fn node_of(pod: &Owned) -> String {
    let node = pod.entry.header.field("spec.nodeName");
    if !node.is_empty() {
        return node.to_owned();
    }
    let spec = cache::decode::<Pod>(&pod.entry).and_then(|pod| pod.spec).unwrap_or_default();
    let required = spec
        .affinity
        .and_then(|affinity| affinity.node_affinity)
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution);
    let terms = required.map(|selector| selector.node_selector_terms).unwrap_or_default();
    let fields = terms.into_iter().flat_map(|term| term.match_fields.unwrap_or_default());
    let mut names =
        fields.filter(|field| field.key == "metadata.name" && field.operator == "In").flat_map(|field| field.values.unwrap_or_default());
    names.next().unwrap_or_default()
}

/// Every node with its pods and what the template says about it.
fn places(template: &PodTemplateSpec, nodes: &[Node], owned: &[Owned], hash: &str, min_ready: i64) -> BTreeMap<String, Place> {
    let now = moment::seconds();
    let mut spec = template.spec.clone().unwrap_or_default();
    tolerate_node_troubles(&mut spec);
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for node in nodes {
        let selected = node_fit::selects(&spec, node);
        let run = selected && node_fit::tolerates(&spec, node, &["NoSchedule", "NoExecute"]);
        let stay = selected && node_fit::tolerates(&spec, node, &["NoExecute"]);
        places.insert(node.metadata.name.clone().unwrap_or_default(), Place { run, stay, pods: Vec::new() });
    }
    for (index, pod) in owned.iter().enumerate() {
        if let Some(place) = places.get_mut(&node_of(pod)) {
            place.pods.push(DaemonPod {
                place: index,
                new: pod.entry.header.label(HASH) == Some(hash),
                ready: pod.lite.ready,
                available: pod.is_available(min_ready, now),
                leaving: pod.is_leaving(),
                failed: pod.lite.phase == client::Phase::Failed,
                succeeded: pod.lite.phase == client::Phase::Succeeded,
                created: pod.entry.created.0,
            });
        }
    }
    places.values_mut().for_each(|place| place.pods.sort_by_key(|pod| pod.created));
    places
}

/// Pods that wait for a node that is gone.
fn homeless(owned: &[Owned], nodes: &[Node]) -> Vec<usize> {
    let waiting = owned.iter().enumerate().filter(|(_, pod)| !pod.lite.scheduled && !pod.is_leaving());
    let lost = waiting.filter(|(_, pod)| {
        let node = node_of(pod);
        !node.is_empty() && nodes.iter().all(|one| one.metadata.name.as_deref() != Some(&node))
    });
    lost.map(|(place, _)| place).collect()
}

/// Pods of a DaemonSet stay on nodes with troubles.
fn tolerate_node_troubles(spec: &mut PodSpec) {
    let mut troubles = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        troubles.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in troubles {
        let toleration =
            Toleration { key: Some(key.into()), operator: Some("Exists".into()), effect: Some(effect.into()), ..Toleration::default() };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

/// Pins the pod to a node, whatever else its affinity asks for.
fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement { key: "metadata.name".into(), operator: "In".into(), values: Some(vec![node.to_owned()]) };
    let affinity: &mut NodeAffinity = spec.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_default();
    let required: &mut NodeSelector = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

fn pod(set: &DaemonSet, template: &PodTemplateSpec, hash: &str, generation: Option<&str>, node: &str) -> Pod {
    let owner = pods::controller_ref("apps/v1", "DaemonSet", &set.metadata);
    let mut pod = pods::from_template(template, set.metadata.namespace.as_deref().unwrap_or(""), &owner.name.clone(), owner);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.to_owned());
    if let Some(generation) = generation {
        labels.insert(GENERATION.into(), generation.to_owned());
    }
    let spec = pod.spec.get_or_insert_default();
    tolerate_node_troubles(spec);
    pin(spec, node);
    pod
}

async fn apply(
    context: &Context,
    set: &DaemonSet,
    template: &PodTemplateSpec,
    hash: &str,
    generation: Option<&str>,
    owned: &[Owned],
    plan: Plan,
) -> Result<()> {
    let mut failure = None;
    for pod in plan.delete.iter().map(|place| &owned[*place]) {
        let (namespace, name) = (&pod.entry.header.namespace, pod.name());
        let node = pod.entry.header.field("spec.nodeName");
        match pod.lite.phase {
            client::Phase::Failed => context.event(
                set,
                EventKind::Warning,
                "FailedDaemonPod",
                format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it"),
            ),
            client::Phase::Succeeded => context.event(
                set,
                EventKind::Normal,
                "SucceededDaemonPod",
                format!("Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it"),
            ),
            _ => {}
        }
        match pods::delete(&context.client, pod).await {
            Ok(()) => context.event(set, EventKind::Normal, "SuccessfulDelete", format!("Deleted pod: {name}")),
            Err(status) => failure = Some(status),
        }
    }
    let mut left: Vec<String> = plan.create.into_iter().take(BURST).collect();
    let mut batch = 1;
    while !left.is_empty() && failure.is_none() {
        let nodes: Vec<String> = left.drain(..batch.min(left.len())).collect();
        let results =
            join_all(nodes.iter().map(|node| async { context.client.create(&pod(set, template, hash, generation, node)).await })).await;
        for result in results {
            match result {
                Ok(made) => context.event(
                    set,
                    EventKind::Normal,
                    "SuccessfulCreate",
                    format!("Created pod: {}", made.metadata.name.unwrap_or_default()),
                ),
                Err(status) if status.message.contains("is being terminated") => return Ok(()),
                Err(status) => {
                    context.event(set, EventKind::Warning, "FailedCreate", format!("Error creating: {status}"));
                    failure = Some(status);
                }
            }
        }
        batch *= 2;
    }
    failure.map_or(Ok(()), |status| Err(status.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_pinned() {
        let mut spec: PodSpec = serde_json::from_value(
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
            ]}}}}),
        )
        .unwrap();
        pin(&mut spec, "n");
        let value = serde_json::to_value(&spec.affinity).unwrap();
        let terms = &value["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchFields"][0]["values"], json!(["n"]));
        assert_eq!(terms[0]["matchExpressions"][0]["key"], "a");
    }
}
