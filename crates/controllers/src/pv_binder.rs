//! Volume binding: pairs claims with volumes, asks provisioners for volumes, and frees volumes whose claims are gone.
//!
//! Keys of claims have a namespace, keys of volumes have none. A binding is two writes, the volume's first; either may
//! be lost and is made again from what the other says.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::{EventKind, Selection};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::volume_match::{self, annotation, claim_ref, class_of_claim, is_for};
use crate::{Config, Entry, moment};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Annotation of volumes with their provisioner.
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation of claims with the node of their first consumer.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotations of claims with the provisioner that shall make their volume.
pub(crate) const PROVISIONER: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "persistent-volume-binder", controller: Arc::new(Binder) }
}

struct Binder;

#[async_trait]
impl Controller for Binder {
    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let unbound = |context: &Context, add: &mut dyn FnMut(ObjectKey), is: &dyn Fn(&PersistentVolumeClaim) -> bool| {
            for entry in context.cache::<PersistentVolumeClaim>().list() {
                if cache::decode::<PersistentVolumeClaim>(&entry).is_some_and(|claim| !is_bound(&claim) && is(&claim)) {
                    add(ObjectKey::of(&entry));
                }
            }
        };
        vec![
            Watch::mapped(Selection::of::<PersistentVolumeClaim>(), |context, old, new, add| {
                for entry in [old, new].into_iter().flatten() {
                    add(ObjectKey::of(entry));
                    let volume =
                        cache::decode::<PersistentVolumeClaim>(entry).and_then(|claim| claim.spec?.volume_name).unwrap_or_default();
                    if !volume.is_empty() {
                        add(ObjectKey::new("", &volume));
                    }
                }
                if let (Some(old), None) = (old, new) {
                    for volume in context.cache::<PersistentVolume>().list() {
                        let claimed = cache::decode::<PersistentVolume>(&volume)
                            .is_some_and(|volume| claim_ref(&volume).is_some_and(|one| one.uid.as_deref() == Some(&old.header.uid)));
                        if claimed {
                            add(ObjectKey::of(&volume));
                        }
                    }
                }
            }),
            Watch::mapped(Selection::of::<PersistentVolume>(), move |context, old, new, add| {
                if let Some(entry) = new.or(old) {
                    add(ObjectKey::of(entry));
                }
                for volume in [old, new].into_iter().flatten().filter_map(|entry| cache::decode::<PersistentVolume>(entry)) {
                    match claim_ref(&volume) {
                        Some(claim) => add(ObjectKey::new(claim.namespace.as_deref().unwrap_or(""), claim.name.as_deref().unwrap_or(""))),
                        None => unbound(context, add, &|_| true),
                    }
                }
            }),
            Watch::mapped(Selection::of::<StorageClass>(), move |context, _, new, add| {
                if let Some(class) = new {
                    unbound(context, add, &|claim| class_of_claim(claim) == &*class.header.name);
                }
            }),
            Watch::read(Selection::of::<Pod>()),
        ]
    }

    fn workers(&self) -> usize {
        // Two claims must not choose the same volume.
        1
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        if key.namespace.is_empty() {
            if let Some(volume) = context.cache::<PersistentVolume>().read::<PersistentVolume>("", &key.name) {
                sync_volume(context, volume).await?;
            }
        } else if let Some(claim) = context.cache::<PersistentVolumeClaim>().read::<PersistentVolumeClaim>(&key.namespace, &key.name) {
            sync_claim(context, claim).await?;
        }
        Ok(Next::Done)
    }
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("")
}

fn set_annotation(metadata: &mut ObjectMeta, name: &str, value: &str) {
    metadata.annotations.get_or_insert_default().insert(name.to_owned(), value.to_owned());
}

async fn sync_claim(context: &Context, claim: PersistentVolumeClaim) -> Result<()> {
    let volumes = context.cache::<PersistentVolume>();
    let name = volume_name(&claim);
    let named = if name.is_empty() { None } else { volumes.read::<PersistentVolume>("", name) };
    if is_bound(&claim) {
        return match named {
            None if name.is_empty() => {
                lose(context, claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!").await
            }
            None => lose(context, claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!").await,
            Some(volume) if claim_ref(&volume).is_none() || claim_ref(&volume).is_some_and(|one| one.uid == claim.metadata.uid) => {
                bind(context, volume, claim).await
            }
            Some(_) => {
                lose(context, claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly").await
            }
        };
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    if !name.is_empty() {
        return match named {
            Some(volume) if is_for(&volume, &claim) => bind(context, volume, claim).await,
            Some(volume) if claim_ref(&volume).is_none() => match volume_match::mismatch(&volume, &claim) {
                None => bind(context, volume, claim).await,
                Some(why) => {
                    context.event(&claim, EventKind::Warning, "VolumeMismatch", format!("Cannot bind to requested volume {name:?}: {why}"));
                    set_phase(context, claim, "Pending").await
                }
            },
            _ => set_phase(context, claim, "Pending").await,
        };
    }
    let class = context.cache::<StorageClass>().read::<StorageClass>("", class_of_claim(&claim));
    let waits = class.as_ref().is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let all: Vec<PersistentVolume> = volumes.list().iter().filter_map(|entry| cache::decode(entry)).collect();
    if let Some(volume) = volume_match::best(&all, &claim, waits) {
        return bind(context, volume.clone(), claim).await;
    }
    let claim = if waits && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        let text = match consumer(context, &claim) {
            Some(pod) => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            None => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
        };
        context.event(&claim, EventKind::Normal, text.0, text.1);
        claim
    } else {
        provision(context, claim, class.as_ref()).await?
    };
    set_phase(context, claim, "Pending").await
}

/// A pod that uses the claim and has no node yet.
fn consumer(context: &Context, claim: &PersistentVolumeClaim) -> Option<String> {
    let name = claim.metadata.name.as_deref().unwrap_or("");
    let pods = context.cache::<Pod>().list_namespace(claim.metadata.namespace.as_deref().unwrap_or(""));
    let waiting =
        pods.iter().filter(|pod| pod.header.field("spec.nodeName").is_empty()).filter(|pod| crate::pvc_protection::uses(pod, name));
    waiting.map(|pod| pod.header.name.to_string()).next()
}

/// Asks the provisioner of the class for a volume.
async fn provision(context: &Context, mut claim: PersistentVolumeClaim, class: Option<&StorageClass>) -> Result<PersistentVolumeClaim> {
    let wanted = class_of_claim(&claim).to_owned();
    if wanted.is_empty() {
        context.event(
            &claim,
            EventKind::Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        );
        return Ok(claim);
    }
    let Some(class) = class else {
        context.event(&claim, EventKind::Warning, "ProvisioningFailed", format!("storageclass.storage.k8s.io {wanted:?} not found"));
        return Ok(claim);
    };
    let provisioner = class.provisioner.clone();
    if provisioner == NO_PROVISIONER {
        return Ok(claim);
    }
    if PROVISIONER.iter().any(|name| annotation(&claim.metadata, name) != Some(&provisioner)) {
        PROVISIONER.iter().for_each(|name| set_annotation(&mut claim.metadata, name, &provisioner));
        claim = context.client.update(&claim).await?;
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    context.event(&claim, EventKind::Normal, "ExternalProvisioning", text);
    Ok(claim)
}

/// Completes a binding from whatever state it is in.
async fn bind(context: &Context, mut volume: PersistentVolume, mut claim: PersistentVolumeClaim) -> Result<()> {
    let known = claim_ref(&volume).cloned();
    if known.as_ref().is_none_or(|one| one.uid != claim.metadata.uid) {
        if known.is_none() {
            set_annotation(&mut volume.metadata, BOUND_BY_CONTROLLER, "yes");
        }
        volume.spec.get_or_insert_default().claim_ref = Some(reference(&claim));
        volume = context.client.update(&volume).await?;
    }
    volume = set_volume_phase(context, volume, "Bound", None).await?;
    let name = volume.metadata.name.clone().unwrap_or_default();
    if volume_name(&claim) != name || !is_bound(&claim) {
        if volume_name(&claim) != name {
            claim.spec.get_or_insert_default().volume_name = Some(name);
            set_annotation(&mut claim.metadata, BOUND_BY_CONTROLLER, "yes");
        }
        set_annotation(&mut claim.metadata, BIND_COMPLETED, "yes");
        claim = context.client.update(&claim).await?;
    }
    let spec = volume.spec.unwrap_or_default();
    let mut status = claim.status.clone().unwrap_or_default();
    status.phase = Some("Bound".into());
    status.access_modes = spec.access_modes;
    // A claim that was enlarged shows the size that its file system has.
    if status.capacity.is_none() {
        status.capacity = spec.capacity;
    }
    if claim.status.as_ref() != Some(&status) {
        claim.status = Some(status);
        context.client.update_status(&claim).await?;
    }
    Ok(())
}

/// The reference of a claim as volumes carry it.
pub(crate) fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    }
}

async fn lose(context: &Context, claim: PersistentVolumeClaim, reason: &str, message: &str) -> Result<()> {
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        return Ok(());
    }
    context.event(&claim, EventKind::Warning, reason, message);
    set_phase(context, claim, "Lost").await
}

async fn set_phase(context: &Context, mut claim: PersistentVolumeClaim, phase: &str) -> Result<()> {
    let status = claim.status.get_or_insert_default();
    if status.phase.as_deref() == Some(phase) {
        return Ok(());
    }
    status.phase = Some(phase.into());
    if phase != "Bound" {
        status.capacity = None;
        status.access_modes = None;
    }
    context.client.update_status(&claim).await?;
    Ok(())
}

async fn set_volume_phase(
    context: &Context,
    mut volume: PersistentVolume,
    phase: &str,
    message: Option<String>,
) -> Result<PersistentVolume> {
    let status = volume.status.get_or_insert_default();
    if status.phase.as_deref() == Some(phase) && status.message == message {
        return Ok(volume);
    }
    *status = PersistentVolumeStatus { phase: Some(phase.into()), message, reason: None, last_phase_transition_time: Some(moment::now()) };
    Ok(context.client.update_status(&volume).await?)
}

async fn sync_volume(context: &Context, mut volume: PersistentVolume) -> Result<()> {
    let Some(wanted) = claim_ref(&volume).cloned() else {
        set_volume_phase(context, volume, "Available", None).await?;
        return Ok(());
    };
    if wanted.uid.as_deref().unwrap_or("").is_empty() {
        set_volume_phase(context, volume, "Available", None).await?;
        return Ok(());
    }
    let (namespace, name) = (wanted.namespace.as_deref().unwrap_or(""), wanted.name.as_deref().unwrap_or(""));
    let mut claim = context.cache::<PersistentVolumeClaim>().read::<PersistentVolumeClaim>(namespace, name);
    if claim.is_none() {
        claim = context.client.find::<PersistentVolumeClaim>(namespace, name).await?;
    }
    let Some(claim) = claim.filter(|claim| claim.metadata.uid == wanted.uid) else {
        return release(context, volume).await;
    };
    let own = volume.metadata.name.as_deref().unwrap_or("");
    if volume_name(&claim) == own {
        set_volume_phase(context, volume, "Bound", None).await?;
    } else if !volume_name(&claim).is_empty() {
        if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(&volume) == "Delete" {
            // The claim found another volume meanwhile.
            return release(context, volume).await;
        }
        let ours = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
        let spec = volume.spec.get_or_insert_default();
        if ours {
            spec.claim_ref = None;
            volume.metadata.annotations.get_or_insert_with(BTreeMap::new).remove(BOUND_BY_CONTROLLER);
        } else if let Some(reference) = &mut spec.claim_ref {
            reference.uid = None;
        }
        let volume = context.client.update(&volume).await?;
        set_volume_phase(context, volume, "Available", None).await?;
    }
    Ok(())
}

/// How a volume is reclaimed.
pub(crate) fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// Whether a provisioner or the driver's own one deletes the volume. The driver's does so for volumes that somebody wrote by hand, too.
fn is_deleted_elsewhere(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY).is_some() || volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some())
}

/// The claim is gone. Provisioners delete volumes of theirs that are released.
async fn release(context: &Context, volume: PersistentVolume) -> Result<()> {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("").to_owned();
    match (policy(&volume), is_deleted_elsewhere(&volume)) {
        ("Delete", false) | ("Recycle", _) => {
            if phase != "Failed" {
                let message = format!("no plugin can {} the volume", policy(&volume).to_lowercase());
                context.event(&volume, EventKind::Warning, "VolumeFailedDelete", message.clone());
                set_volume_phase(context, volume, "Failed", Some(message)).await?;
            }
        }
        _ if phase != "Released" && phase != "Failed" => drop(set_volume_phase(context, volume, "Released", None).await?),
        _ => {}
    }
    Ok(())
}
