//! Local-path provisioner: volumes that are folders of the node that uses them.
//!
//! A volume is pinned to its node. The folder is made by the kubelet when the volume is first mounted, and removed
//! here if it is on this machine; folders of volumes on other machines stay.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use client::{DeleteOptions, EventKind, ResourceId, Selection};
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::pv_binder::{PROVISIONED_BY, PROVISIONER, SELECTED_NODE, policy, reference};
use crate::volume_match::{annotation, class_of_claim};
use crate::{Config, Entry};

const VOLUMES: ResourceId = ResourceId::new("", "v1", "persistentvolumes");
/// Name of the provisioner in storage classes.
pub(crate) const NAME: &str = "knarr.io/local-path";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The controller.
pub fn controller(config: &Config) -> Entry {
    Entry { account: "persistent-volume-binder", controller: Arc::new(LocalPath { folder: config.local_path_dir.clone() }) }
}

struct LocalPath {
    folder: Option<PathBuf>,
}

#[async_trait]
impl Controller for LocalPath {
    fn name(&self) -> &'static str {
        "local-path-provisioner"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<PersistentVolumeClaim>()),
            Watch::own(Selection::of::<PersistentVolume>()),
            Watch::read(Selection::of::<StorageClass>()),
            Watch::read(Selection::of::<Node>()),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(folder) = &self.folder else {
            return Ok(Next::Done);
        };
        if key.namespace.is_empty() {
            if let Some(volume) = context.cache::<PersistentVolume>().read::<PersistentVolume>("", &key.name) {
                remove(context, folder, &volume).await?;
            }
        } else if let Some(claim) = context.cache::<PersistentVolumeClaim>().read::<PersistentVolumeClaim>(&key.namespace, &key.name) {
            make(context, folder, &claim).await?;
        }
        Ok(Next::Done)
    }
}

async fn make(context: &Context, folder: &std::path::Path, claim: &PersistentVolumeClaim) -> Result<()> {
    let spec = claim.spec.clone().unwrap_or_default();
    let asked = PROVISIONER.iter().any(|name| annotation(&claim.metadata, name) == Some(NAME));
    if !asked || spec.volume_name.as_deref().is_some_and(|name| !name.is_empty()) || claim.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let Some(class) = context.cache::<StorageClass>().read::<StorageClass>("", class_of_claim(claim)) else {
        return Ok(());
    };
    let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or(""));
    if context.cache::<PersistentVolume>().get("", &name).is_some() {
        return Ok(());
    }
    let fail = |why: &str| {
        context.event(
            claim,
            EventKind::Warning,
            "ProvisioningFailed",
            format!("failed to provision volume with StorageClass {:?}: {why}", class_of_claim(claim)),
        )
    };
    if spec.volume_mode.as_deref() == Some("Block") {
        fail("only volumes of mode Filesystem can be made");
        return Ok(());
    }
    if spec.selector.is_some() {
        fail("claim.Spec.Selector is not supported");
        return Ok(());
    }
    let nodes = context.cache::<Node>();
    let node = match annotation(&claim.metadata, SELECTED_NODE) {
        Some(node) => nodes.read::<Node>("", node),
        None if class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") => return Ok(()),
        None => nodes.list().first().and_then(|entry| cache::decode(entry)),
    };
    let Some(node) = node else {
        fail("there is no node for it");
        return Ok(());
    };
    let volume = volume(folder, claim, &class, &name, &node);
    match context.client.create(&volume).await {
        Err(status) if !status.is_already_exists() => {
            fail(&status.to_string());
            Err(status.into())
        }
        _ => {
            context.event(claim, EventKind::Normal, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
            Ok(())
        }
    }
}

fn volume(folder: &std::path::Path, claim: &PersistentVolumeClaim, class: &StorageClass, name: &str, node: &Node) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let host =
        node.metadata.labels.as_ref().and_then(|labels| labels.get(HOSTNAME)).or(node.metadata.name.as_ref()).cloned().unwrap_or_default();
    let place = folder.join(format!(
        "{name}_{}_{}",
        claim.metadata.namespace.as_deref().unwrap_or(""),
        claim.metadata.name.as_deref().unwrap_or("")
    ));
    let term = NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement { key: HOSTNAME.into(), operator: "In".into(), values: Some(vec![host]) }]),
        match_fields: None,
    };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), NAME.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            capacity: spec.resources.and_then(|resources| resources.requests),
            access_modes: spec.access_modes,
            persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into())),
            storage_class_name: class.metadata.name.clone(),
            mount_options: class.mount_options.clone(),
            volume_mode: Some("Filesystem".into()),
            claim_ref: Some(reference(claim)),
            host_path: Some(HostPathVolumeSource { path: place.to_string_lossy().into_owned(), type_: Some("DirectoryOrCreate".into()) }),
            node_affinity: Some(VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// A released volume that shall be deleted goes with its folder.
async fn remove(context: &Context, folder: &std::path::Path, volume: &PersistentVolume) -> Result<()> {
    let ours = annotation(&volume.metadata, PROVISIONED_BY) == Some(NAME);
    let released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
    if !ours || !released || policy(volume) != "Delete" || volume.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let path = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref()).map(|source| PathBuf::from(&source.path)).unwrap_or_default();
    // Only folders that were made here, directly below ours, are ever removed.
    if path.parent() == Some(folder) && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pvc-")) {
        match tokio::fs::remove_dir_all(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    let name = volume.metadata.name.as_deref().unwrap_or("");
    match context.client.delete(&VOLUMES, "", name, &DeleteOptions::uid(volume.metadata.uid.clone().unwrap_or_default())).await {
        Err(status) if !status.is_not_found() => Err(status.into()),
        _ => Ok(()),
    }
}
