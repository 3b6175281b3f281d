//! Keeps a number of equal pods: what ReplicaSet and ReplicationController have in common.

use std::sync::Arc;

use anyhow::Result;
use api::label_selector::LabelSelector;
use client::{EventKind, Selection};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use reconcile::{Context, ObjectKey, Watch};

use crate::pods::{self, Owned};
use crate::tally::{Summary, Tally};

/// Pods created or deleted by one reconcile at most.
const BURST: usize = 500;

/// A set of equal pods, whatever kind it is.
pub struct Set {
    /// Metadata of the owner.
    pub metadata: ObjectMeta,
    /// Reference that its pods carry.
    pub owner: OwnerReference,
    /// What belongs to it.
    pub selector: LabelSelector,
    /// What its pods are made of.
    pub template: PodTemplateSpec,
    /// How many there shall be.
    pub replicas: i32,
    /// Seconds that a pod must be ready to count as available.
    pub min_ready: i64,
}

/// What the pods of a set amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Active pods.
    pub replicas: i32,
    /// Those with all labels of the template.
    pub labeled: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Those that have been ready long enough.
    pub available: i32,
    /// Pods that are leaving.
    pub terminating: i32,
    /// When the next pod becomes available, in seconds since the epoch.
    pub next_available: Option<i64>,
}

/// What to do about a number of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// As it should be.
    Nothing,
    /// Make so many.
    Create(usize),
    /// Remove so many.
    Delete(usize),
}

/// Plans by the number of active pods.
pub fn plan(active: usize, wanted: i32) -> Step {
    let wanted = wanted.max(0) as usize;
    match active {
        active if active < wanted => Step::Create((wanted - active).min(BURST)),
        active if active > wanted => Step::Delete((active - wanted).min(BURST)),
        _ => Step::Nothing,
    }
}

/// What makes sets of a kind due: their pods, counted on the way, and orphans, which may belong to any set of their namespace.
pub fn watch_pods<K: k8s_openapi::Resource>(tally: Arc<Tally>) -> Watch {
    Watch::mapped(Selection::of::<Pod>(), move |context, old, new, add| {
        tally.changed(old.map(|entry| &**entry), new.map(|entry| &**entry));
        for entry in [old, new].into_iter().flatten() {
            if let Some(owner) = entry.header.controller().filter(|owner| &*owner.kind == K::KIND) {
                add(ObjectKey::new(&entry.header.namespace, &owner.name));
            }
        }
        if let Some(pod) = new.filter(|pod| pod.header.controller().is_none() && !pod.header.labels.is_empty()) {
            context.cache::<K>().list_namespace(&pod.header.namespace).iter().for_each(|set| add(ObjectKey::of(set)));
        }
    })
}

/// Brings the pods of a set where they should be and counts them. The second value is the first failure.
pub async fn sync(context: &Context, set: &Set, tally: &Tally) -> Result<(Counts, Option<api::Status>)> {
    if let Some(summary) = summary(set, tally) {
        let counts = Counts {
            replicas: summary.active as i32,
            labeled: summary.labeled as i32,
            ready: summary.ready as i32,
            available: summary.ready as i32,
            terminating: summary.leaving as i32,
            next_available: None,
        };
        match plan(summary.active, set.replicas) {
            Step::Nothing => return Ok((counts, None)),
            Step::Create(count) => return Ok((counts, create(context, set, count).await.err())),
            // Who goes is decided pod by pod.
            Step::Delete(_) => {}
        }
    }
    let mine = pods::claim(context, &set.metadata, &set.selector, &set.owner).await?;
    let (active, rest): (Vec<Owned>, Vec<Owned>) = mine.into_iter().partition(Owned::is_active);
    let terminating = rest.iter().filter(|pod| pod.is_leaving() && !pod.lite.is_finished()).count();
    let mut failure = None;
    if set.metadata.deletion_timestamp.is_none() {
        failure = match plan(active.len(), set.replicas) {
            Step::Nothing => None,
            Step::Create(count) => create(context, set, count).await.err(),
            Step::Delete(count) => delete(context, set, &active, count).await.err(),
        };
    }
    let mut counts = count(set, &active, Timestamp::now().as_second());
    counts.terminating = terminating as i32;
    Ok((counts, failure))
}

/// The pods of a set as numbers, where these are enough: no pod has to be ready for a while, come or go.
fn summary(set: &Set, tally: &Tally) -> Option<Summary> {
    if set.min_ready > 0 || set.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let labels = set.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
    let labels: Vec<(&str, &str)> = labels.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    tally.summary(&set.owner.uid, set.metadata.namespace.as_deref().unwrap_or(""), &set.selector, &labels)
}

/// Creates pods, one at first and then twice as many each time, so that a quota or policy that refuses them is asked once.
async fn create(context: &Context, set: &Set, count: usize) -> Result<(), api::Status> {
    let namespace = set.metadata.namespace.as_deref().unwrap_or("");
    let pod = pods::from_template(&set.template, namespace, &set.owner.name, set.owner.clone());
    let (mut left, mut batch) = (count, 1);
    while left > 0 {
        let size = batch.min(left);
        let results = join_all((0..size).map(|_| context.client.create(&pod))).await;
        for result in results {
            match result {
                Ok(made) => event(
                    context,
                    set,
                    EventKind::Normal,
                    "SuccessfulCreate",
                    format!("Created pod: {}", made.metadata.name.unwrap_or_default()),
                ),
                Err(status) => {
                    // A namespace that is being deleted refuses pods; that is no failure worth a word.
                    if !status.message.contains("is being terminated") {
                        event(context, set, EventKind::Warning, "FailedCreate", format!("Error creating: {status}"));
                    }
                    return Err(status);
                }
            }
        }
        left -= size;
        batch *= 2;
    }
    Ok(())
}

async fn delete(context: &Context, set: &Set, active: &[Owned], count: usize) -> Result<(), api::Status> {
    let mut ranked = active.to_vec();
    let nodes: Vec<String> = active.iter().map(|pod| pod.entry.header.field("spec.nodeName").to_owned()).collect();
    pods::rank_for_deletion(&mut ranked, |pod| {
        let node = pod.entry.header.field("spec.nodeName");
        nodes.iter().filter(|one| !node.is_empty() && *one == node).count()
    });
    let results =
        join_all(ranked[..count.min(ranked.len())].iter().map(|pod| async { (pod.name(), pods::delete(&context.client, pod).await) }))
            .await;
    for (name, result) in results {
        match result {
            Ok(()) => event(context, set, EventKind::Normal, "SuccessfulDelete", format!("Deleted pod: {name}")),
            Err(status) => {
                event(context, set, EventKind::Warning, "FailedDelete", format!("Error deleting: {status}"));
                return Err(status);
            }
        }
    }
    Ok(())
}

fn event(context: &Context, set: &Set, kind: EventKind, reason: &str, message: String) {
    let regarding = serde_json::json!({
        "apiVersion": set.owner.api_version, "kind": set.owner.kind, "namespace": set.metadata.namespace,
        "name": set.owner.name, "uid": set.owner.uid,
    });
    context.recorder.record(regarding, kind, reason, message);
}

fn count(set: &Set, active: &[Owned], now: i64) -> Counts {
    let template = set.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let labeled = |pod: &&Owned| template.iter().all(|(key, value)| pod.entry.header.label(key) == Some(value));
    let soon = active.iter().filter(|pod| pod.lite.ready && !pod.is_available(set.min_ready, now));
    Counts {
        replicas: active.len() as i32,
        labeled: active.iter().filter(labeled).count() as i32,
        ready: active.iter().filter(|pod| pod.lite.ready).count() as i32,
        available: active.iter().filter(|pod| pod.is_available(set.min_ready, now)).count() as i32,
        terminating: 0,
        next_available: soon.map(|pod| pod.lite.ready_since + set.min_ready).min(),
    }
}
