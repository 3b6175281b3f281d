//! Attaches volumes of drivers to the nodes whose pods need them, and detaches them when the node has let go.
//!
//! An attachment is an object that the driver's attacher carries out. This controller makes it when a pod with the volume
//! is bound to a node, shows it in the node's status once it is there, and deletes it when no pod of the node needs the
//! volume and the node says that it is no longer in use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use client::{AttachmentLite, DeleteOptions, EventKind, PatchKind, ResourceId, Selection, attachment_name};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use store::Revision;

use crate::{Config, Entry, pods};

/// How long a node that does not answer may keep a volume.
const FORCE_AFTER: Duration = Duration::from_secs(360);
/// When a volume that another node still has is looked at again, should nothing change.
const AGAIN: Duration = Duration::from_secs(15);
/// The taint that says that a node is off and will not come back with its volumes.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const NODES: ResourceId = ResourceId::new("", "v1", "nodes");
const ATTACHMENTS: ResourceId = ResourceId::new("storage.k8s.io", "v1", "volumeattachments");

/// The controller. Its keys are nodes.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "attachdetach-controller", controller: Arc::new(AttachDetach::default()) }
}

#[derive(Default)]
struct AttachDetach {
    /// Since when nobody on its node needs an attachment that the node still uses.
    unwanted: Mutex<HashMap<String, Instant>>,
    /// Held while a volume that only one node may have is given to one, until the cache shows it: pods of two nodes may ask for
    /// it at the same moment.
    giving: tokio::sync::Mutex<()>,
}

/// A volume that belongs on a node.
struct Wanted {
    volume: PersistentVolume,
    pod: Arc<store::Entry>,
}

/// An attachment that this controller has made.
struct Own {
    name: String,
    object: VolumeAttachment,
    /// The name that the node's status has for its volume.
    volume: String,
}

#[async_trait]
impl Controller for AttachDetach {
    fn name(&self) -> &'static str {
        "persistentvolume-attach-detach-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::mapped(Selection::of::<Node>(), |_, old, new, add| {
                // A node without volumes reports often and concerns nobody here.
                let shows =
                    |node: &&Arc<store::Entry>| ["\"volumesAttached\"", "\"volumesInUse\""].iter().any(|text| pods::mentions(node, text));
                if let Some(node) = [old, new].into_iter().flatten().find(shows).or(old.filter(|_| new.is_none())) {
                    add(ObjectKey::of(node));
                }
            }),
            Watch::mapped(Selection::of::<Pod>(), |_, old, new, add| {
                for pod in [old, new].into_iter().flatten() {
                    let node = pod.header.field("spec.nodeName");
                    if !node.is_empty() && has_claims(pod) {
                        add(ObjectKey::new("", node));
                    }
                }
            }),
            Watch::mapped(Selection::of::<VolumeAttachment>(), |_, old, new, add| {
                if let Some(attachment) = new.or(old).and_then(|entry| entry.header.project::<AttachmentLite>()) {
                    add(ObjectKey::new("", &attachment.node));
                }
            }),
            // A pod may be on its node before its claim is seen to be bound.
            Watch::mapped(Selection::of::<PersistentVolumeClaim>(), |context, old, new, add| {
                let name = |entry: &Arc<store::Entry>| {
                    cache::decode::<PersistentVolumeClaim>(entry)?.spec?.volume_name.filter(|name| !name.is_empty())
                };
                if let Some(claim) = new.filter(|new| name(new).is_some() && old.and_then(name).is_none()) {
                    users(context, &claim.header.namespace, &claim.header.name, add);
                }
            }),
            Watch::mapped(Selection::of::<PersistentVolume>(), |context, old, new, add| {
                let claim = |entry: &Arc<store::Entry>| cache::decode::<PersistentVolume>(entry)?.spec?.claim_ref;
                let fresh = new.and_then(claim).filter(|claim_now| old.and_then(claim).is_none_or(|before| before.uid != claim_now.uid));
                if let Some(claim) = fresh {
                    users(context, &claim.namespace.unwrap_or_default(), &claim.name.unwrap_or_default(), add);
                }
            }),
            Watch::read(Selection::of::<CSIDriver>()),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let name = &*key.name;
        let node = context.cache::<Node>().read::<Node>("", name);
        let present = context.cache::<VolumeAttachment>();
        let here = here(context, name);
        let (wanted, complete) = if node.is_some() { wanted(context, name) } else { (BTreeMap::new(), true) };
        let mut next = if complete { Next::Done } else { Next::After(AGAIN) };
        for (attachment, wanted) in &wanted {
            if present.get("", attachment).is_some() {
                continue;
            }
            if is_shared(&wanted.volume) {
                attach(context, attachment, &wanted.volume, name).await?;
                continue;
            }
            let _giving = self.giving.lock().await;
            match elsewhere(context, &wanted.volume, name) {
                Some(other) => {
                    busy(context, wanted, &other);
                    next = Next::After(AGAIN);
                }
                None => present.wait_for(attach(context, attachment, &wanted.volume, name).await?).await,
            }
        }
        let mut shown = Vec::new();
        for Own { name: attachment, object, volume } in &here {
            let is_wanted = wanted.contains_key(attachment);
            if is_wanted {
                self.unwanted.lock().remove(attachment);
            }
            let leaving = object.metadata.deletion_timestamp.is_some();
            let attached = object.status.as_ref().is_some_and(|status| status.attached);
            let detach = !is_wanted && !leaving;
            let kept = detach.then(|| self.is_kept(node.as_ref(), attachment, volume)).flatten();
            if let Some(wait) = kept {
                next = Next::After(wait.min(match next {
                    Next::After(other) => other,
                    Next::Done => wait,
                }));
            }
            if attached && !leaving && (is_wanted || kept.is_some()) {
                shown.push(volume.clone());
            }
        }
        // What the status still shows as attached, the node may begin to use: it is taken away there first.
        if let Some(node) = &node {
            show(context, node, shown).await?;
        }
        for Own { name: attachment, object, volume } in &here {
            if wanted.contains_key(attachment) || object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            if self.is_kept(node.as_ref(), attachment, volume).is_none() {
                self.unwanted.lock().remove(attachment);
                match context.client.delete(&ATTACHMENTS, "", attachment, &DeleteOptions::default()).await {
                    Err(status) if !status.is_not_found() => return Err(status.into()),
                    _ => {}
                }
            }
        }
        self.unwanted.lock().retain(|attachment, _| present.get("", attachment).is_some());
        Ok(next)
    }
}

impl AttachDetach {
    /// Whether an attachment that nobody needs has to stay because its node still uses it, and when to look again.
    fn is_kept(&self, node: Option<&Node>, attachment: &str, volume: &str) -> Option<Duration> {
        let node = node?;
        let used = node.status.as_ref().and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default();
        if !used.iter().any(|one| one == volume) || is_out_of_service(node) {
            return None;
        }
        let since = *self.unwanted.lock().entry(attachment.to_owned()).or_insert_with(Instant::now);
        if is_ready(node) {
            // The node tells when it has let go.
            return Some(FORCE_AFTER);
        }
        FORCE_AFTER.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }
}

/// The nodes of the pods that use a claim are due.
fn users(context: &Context, namespace: &str, claim: &str, add: &mut dyn FnMut(ObjectKey)) {
    for pod in context.cache::<Pod>().list_namespace(namespace) {
        let node = pod.header.field("spec.nodeName");
        if !node.is_empty() && crate::pvc_protection::uses(&pod, claim) {
            add(ObjectKey::new("", node));
        }
    }
}

fn has_claims(pod: &store::Entry) -> bool {
    pods::mentions(pod, "\"persistentVolumeClaim\"") || pods::mentions(pod, "\"ephemeral\"")
}

/// The attachments of a node that this controller has made.
fn here(context: &Context, node: &str) -> Vec<Own> {
    let entries = context.cache::<VolumeAttachment>().by(&cache::BY_ATTACHED_NODE, node);
    let own = |entry: &Arc<store::Entry>| {
        let object = cache::decode::<VolumeAttachment>(entry)?;
        let volume = ours(context, &entry.header.name, &object)?;
        Some(Own { name: entry.header.name.to_string(), object, volume })
    };
    entries.iter().filter_map(own).collect()
}

/// The attachments that the pods of a node need, by name; and whether all their claims are bound.
fn wanted(context: &Context, node: &str) -> (BTreeMap<String, Wanted>, bool) {
    let (mut all, mut complete) = (BTreeMap::new(), true);
    for entry in context.cache::<Pod>().by(&cache::BY_NODE, node) {
        let phase = entry.header.field("status.phase");
        if matches!(phase, "Succeeded" | "Failed") || !has_claims(&entry) {
            continue;
        }
        let Some(pod) = cache::decode::<Pod>(&entry) else { continue };
        for claim in claims(&pod) {
            let Some(volume) = bound(context, &entry.header.namespace, &claim) else {
                complete = false;
                continue;
            };
            let Some(source) = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()) else { continue };
            let driver = context.cache::<CSIDriver>().read::<CSIDriver>("", &source.driver);
            if driver.is_none_or(|driver| driver.spec.attach_required != Some(false)) {
                let name = attachment_name(&source.driver, &source.volume_handle, node);
                all.entry(name).or_insert(Wanted { volume, pod: entry.clone() });
            }
        }
    }
    (all, complete)
}

fn claims(pod: &Pod) -> BTreeSet<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let claim = |volume: &k8s_openapi::api::core::v1::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
        (None, None) => None,
    };
    volumes.filter_map(claim).collect()
}

fn bound(context: &Context, namespace: &str, claim: &str) -> Option<PersistentVolume> {
    let claim = context.cache::<PersistentVolumeClaim>().read::<PersistentVolumeClaim>(namespace, claim)?;
    let name = claim.spec.and_then(|spec| spec.volume_name).filter(|name| !name.is_empty())?;
    let volume = context.cache::<PersistentVolume>().read::<PersistentVolume>("", &name)?;
    let holder = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|claim| claim.uid.clone());
    (holder == claim.metadata.uid).then_some(volume)
}

/// The name that the node's status has for the volume of an attachment of ours. Attachments of others are left alone.
fn ours(context: &Context, name: &str, object: &VolumeAttachment) -> Option<String> {
    let volume = object.spec.source.persistent_volume_name.as_deref()?;
    let volume = context.cache::<PersistentVolume>().read::<PersistentVolume>("", volume)?;
    let source = volume.spec.and_then(|spec| spec.csi).filter(|source| source.driver == object.spec.attacher)?;
    let expected = attachment_name(&source.driver, &source.volume_handle, &object.spec.node_name);
    (expected == name).then(|| format!("kubernetes.io/csi/{}^{}", source.driver, source.volume_handle))
}

/// Whether several nodes may have a volume at once.
fn is_shared(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    modes.is_empty() || modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

/// Another node that has the volume.
fn elsewhere(context: &Context, volume: &PersistentVolume, node: &str) -> Option<String> {
    let all = context.cache::<VolumeAttachment>().by(&cache::BY_VOLUME, volume.metadata.name.as_deref()?);
    let nodes = all.iter().filter_map(|entry| entry.header.project::<AttachmentLite>()).map(|attachment| &*attachment.node);
    nodes.filter(|other| *other != node).map(str::to_owned).next()
}

fn busy(context: &Context, wanted: &Wanted, other: &str) {
    let Some(pod) = cache::decode::<Pod>(&wanted.pod) else { return };
    let volume = wanted.volume.metadata.name.as_deref().unwrap_or("");
    let message = format!(
        "Multi-Attach error for volume {volume:?} Volume is already exclusively attached to one node and can't be attached to another"
    );
    tracing::debug!(volume, other, "another node has the volume");
    context.event(&pod, EventKind::Warning, "FailedAttachVolume", message);
}

/// Makes an attachment; the revision from which on everybody sees it.
async fn attach(context: &Context, name: &str, volume: &PersistentVolume, node: &str) -> Result<Revision> {
    let driver = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).map(|source| source.driver.clone()).unwrap_or_default();
    let attachment = VolumeAttachment {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: driver,
            node_name: node.to_owned(),
            source: VolumeAttachmentSource { persistent_volume_name: volume.metadata.name.clone(), ..VolumeAttachmentSource::default() },
        },
        status: None,
    };
    match context.client.create(&attachment).await {
        Ok(made) => Ok(Revision(made.metadata.resource_version.as_deref().unwrap_or_default().parse()?)),
        // Another run of ours has made it, which the cache will show.
        Err(status) if status.is_already_exists() => Ok(Revision(0)),
        Err(status) => Err(status.into()),
    }
}

/// Brings `volumesAttached` of a node to what is attached.
async fn show(context: &Context, node: &Node, mut volumes: Vec<String>) -> Result<()> {
    volumes.sort();
    let shown = node.status.as_ref().and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default();
    let mut names: Vec<&String> = shown.iter().map(|volume| &volume.name).collect();
    names.sort();
    if names.iter().copied().eq(&volumes) {
        return Ok(());
    }
    let list: Vec<AttachedVolume> = volumes.into_iter().map(|name| AttachedVolume { name, device_path: String::new() }).collect();
    let list = (!list.is_empty()).then_some(list);
    let name = node.metadata.name.as_deref().unwrap_or("");
    let patch = serde_json::json!({"status": {"volumesAttached": list}});
    match context.client.patch(&NODES, "", name, "status", &PatchKind::Merge, &patch).await {
        Err(status) if !status.is_not_found() => Err(status.into()),
        _ => Ok(()),
    }
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
