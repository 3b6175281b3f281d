//! What controllers of pods share: reading owned pods without decoding, making pods from templates, names and hashes.

use std::sync::Arc;

use api::Status;
use api::label_selector::LabelSelector;
use cache::{BY_OWNER, Cache, ORPHANS};
use client::{Client, DeleteOptions, PatchKind, PodLite, ResourceId};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use reconcile::Context;
use serde_json::json;
use store::Entry;

/// The resource of pods.
pub const PODS: ResourceId = ResourceId::new("", "v1", "pods");

/// An owned pod as the cache shows it, not decoded.
#[derive(Clone)]
pub struct Owned {
    /// Its entry.
    pub entry: Arc<Entry>,
    /// Its projection.
    pub lite: PodLite,
}

impl Owned {
    /// Name of the pod.
    pub fn name(&self) -> &str {
        &self.entry.header.name
    }

    /// Whether its deletion has begun.
    pub fn is_leaving(&self) -> bool {
        self.entry.header.deletion_timestamp.is_some()
    }

    /// Whether it counts: not ended and not leaving.
    pub fn is_active(&self) -> bool {
        !self.lite.is_finished() && !self.is_leaving()
    }

    /// Whether it has been ready for so many seconds.
    pub fn is_available(&self, min_ready: i64, now: i64) -> bool {
        self.lite.ready && (min_ready == 0 || (self.lite.ready_since > 0 && self.lite.ready_since + min_ready <= now))
    }
}

/// Pods whose controller is this uid.
pub fn owned(pods: &Cache, uid: &str) -> Vec<Owned> {
    let entries = pods.by(&BY_OWNER, uid);
    entries.into_iter().filter(|entry| entry.header.controller().is_some_and(|owner| &*owner.uid == uid)).filter_map(lite).collect()
}

/// The entry with its projection.
pub fn lite(entry: Arc<Entry>) -> Option<Owned> {
    let lite = *entry.header.project::<PodLite>()?;
    Some(Owned { entry, lite })
}

/// The reference of a controlling owner.
pub fn controller_ref(api_version: &str, kind: &str, metadata: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A pod of a template. The API server completes its name.
pub fn from_template(template: &PodTemplateSpec, namespace: &str, owner_name: &str, owner: OwnerReference) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut prefix = format!("{owner_name}-");
    // A generated name has five more characters and must stay a DNS name.
    prefix.truncate(253 - 5);
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(prefix),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Deletes a pod by name, only this very one; a pod that is gone already is fine.
///
/// # Errors
/// The Status of the answer.
pub async fn delete(client: &Client, pod: &Owned) -> Result<(), Status> {
    let options = DeleteOptions::uid(&*pod.entry.header.uid);
    match client.delete(&PODS, &pod.entry.header.namespace, pod.name(), &options).await {
        Err(status) if status.is_not_found() => Ok(()),
        result => result,
    }
}

/// Takes a pod without controller into ownership; a pod that is gone or taken meanwhile is fine.
///
/// # Errors
/// The Status of the answer.
pub async fn adopt(client: &Client, resource: &ResourceId, entry: &Entry, owner: &OwnerReference) -> Result<(), Status> {
    let patch = json!({"metadata": {"ownerReferences": [owner], "uid": &*entry.header.uid}});
    tolerate(client.patch(resource, &entry.header.namespace, &entry.header.name, "", &PatchKind::Strategic, &patch).await)
}

/// Gives an object back that no longer matches.
///
/// # Errors
/// The Status of the answer.
pub async fn release(client: &Client, resource: &ResourceId, entry: &Entry, owner_uid: &str) -> Result<(), Status> {
    let patch = json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner_uid}], "uid": &*entry.header.uid}});
    tolerate(client.patch(resource, &entry.header.namespace, &entry.header.name, "", &PatchKind::Strategic, &patch).await)
}

/// Pods of an owner: orphans that match are adopted, others that no longer match are given back.
///
/// # Errors
/// The Status of an answer.
pub async fn claim(
    context: &Context,
    metadata: &ObjectMeta,
    selector: &LabelSelector,
    owner: &OwnerReference,
) -> Result<Vec<Owned>, Status> {
    let cache = context.cache::<Pod>();
    let leaving = metadata.deletion_timestamp.is_some();
    let mut mine = Vec::new();
    for pod in owned(&cache, &owner.uid) {
        if selector.matches_sorted(&pod.entry.header.labels) {
            mine.push(pod);
        } else if !leaving && !pod.is_leaving() {
            release(&context.client, &PODS, &pod.entry, &owner.uid).await?;
        }
    }
    if leaving {
        return Ok(mine);
    }
    for entry in cache.by(&ORPHANS, metadata.namespace.as_deref().unwrap_or("")) {
        if entry.header.deletion_timestamp.is_some() || !selector.matches_sorted(&entry.header.labels) {
            continue;
        }
        if entry.header.project::<PodLite>().is_some_and(|pod| !pod.is_finished()) {
            adopt(&context.client, &PODS, &entry, owner).await?;
            mine.extend(lite(entry));
        }
    }
    Ok(mine)
}

fn tolerate(result: Result<serde_json::Value, Status>) -> Result<(), Status> {
    match result {
        Err(status) if !status.is_not_found() && status.code != 422 => Err(status),
        _ => Ok(()),
    }
}

/// Says in the status of a pod why it is about to be deleted; a pod that is gone is fine.
///
/// # Errors
/// The Status of the answer.
pub async fn mark_disrupted(client: &Client, pod: &Pod, reason: &str, message: &str, phase: Option<&str>) -> Result<(), Status> {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": crate::moment::now(), "observedGeneration": pod.metadata.generation,
    });
    let mut patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    if let Some(phase) = phase {
        patch["status"]["phase"] = phase.into();
    }
    let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or(""), pod.metadata.name.as_deref().unwrap_or(""));
    tolerate(client.patch(&PODS, namespace, name, "status", &PatchKind::Strategic, &patch).await)
}

/// How much we would rather lose a pod; the largest goes first: not scheduled, not running, not ready, crowded nodes,
/// ready for a shorter time, more restarts, younger.
pub fn rank_for_deletion(pods: &mut [Owned], crowd: impl Fn(&Owned) -> usize) {
    let phase = |pod: &Owned| match pod.lite.phase {
        client::Phase::Pending => 0,
        client::Phase::Unknown => 1,
        _ => 2,
    };
    pods.sort_by_cached_key(|pod| {
        (
            pod.lite.scheduled,
            phase(pod),
            pod.lite.ready,
            deletion_cost(&pod.entry),
            std::cmp::Reverse(crowd(pod)),
            std::cmp::Reverse(pod.lite.ready_since),
            std::cmp::Reverse(pod.entry.created.0),
        )
    });
}

/// Whether a text occurs in an object, at whatever place: a cheap no for what most objects do not have.
pub fn mentions(entry: &Entry, text: &str) -> bool {
    std::str::from_utf8(&entry.bytes).is_ok_and(|bytes| bytes.contains(text))
}

/// What the loss of a pod costs by its own account; most pods say nothing and are not decoded.
fn deletion_cost(entry: &Entry) -> i32 {
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if !mentions(entry, COST) {
        return 0;
    }
    let annotations = cache::decode::<Pod>(entry).and_then(|pod| pod.metadata.annotations).unwrap_or_default();
    annotations.get(COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Characters of generated suffixes: no vowels and nothing that looks like something else.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Encodes text of digits into characters that are safe in names and make no words.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| SAFE[byte as usize % SAFE.len()] as char).collect()
}

/// The name suffix of a template: a hash of its JSON, salted by the collision count.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hash = 0x811c_9dc5_u32;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    add(serde_json::to_string(template).unwrap_or_default().as_bytes());
    if let Some(collisions) = collisions {
        add(&collisions.to_le_bytes());
    }
    safe_encode(&hash.to_string())
}
