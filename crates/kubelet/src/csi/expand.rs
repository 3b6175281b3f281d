//! Volumes that grow: what the node does when the volume is larger than the claim shows.

use std::path::Path;

use api::Quantity;
use client::{EventKind, PatchKind, ResourceId};
use serde_json::json;

use super::messages::{CapacityRange, NodeExpandVolumeRequest, NodeExpandVolumeResponse};
use super::mount::text;
use super::volume::Wanted;
use super::{Ability, Driver};
use crate::volumes::VolumeError;

const CLAIMS: ResourceId = ResourceId::new("", "v1", "persistentvolumeclaims");
/// Conditions of a claim that are over when it has grown.
const OVER: &[&str] = &["FileSystemResizePending", "Resizing", "ControllerResizeError", "NodeResizeError"];

/// Has the driver grow the volume where that is due, and shows it in the claim.
///
/// # Errors
/// What the driver or the server says.
pub async fn expand(wanted: &Wanted<'_>, driver: &Driver, path: &Path, staging: &Path) -> Result<(), VolumeError> {
    let Some((claim, volume)) = &wanted.bound else { return Ok(()) };
    if !driver.can(Ability::Expand) || wanted.read_only {
        return Ok(());
    }
    let given = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    let shown = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
    let (Some(given), Some(shown)) = (given, shown) else { return Ok(()) };
    let value = |text: &str| Quantity::parse(text).map_or(0, Quantity::value);
    if value(&given.0) <= value(&shown.0) {
        return Ok(());
    }
    let block = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    let request = NodeExpandVolumeRequest {
        volume_id: wanted.handle.clone(),
        volume_path: text(path),
        range: Some(CapacityRange { required: value(&given.0), limit: 0 }),
        staging_path: if driver.can(Ability::Stage) { text(staging) } else { String::new() },
        capability: Some(wanted.capability(driver, block)),
        secrets: wanted.expand_secrets().await?,
    };
    let name = &wanted.spec_name;
    if let Err(error) = driver.call::<NodeExpandVolumeResponse>("NodeExpandVolume", &request).await {
        let message = format!("NodeExpandVolume.NodeExpandVolume failed for volume {name:?} : {error}");
        wanted.kubelet.event(wanted.pod, "", EventKind::Warning, "VolumeResizeFailed", &message);
        return Err(error);
    }
    let conditions: Vec<_> = claim.status.iter().flat_map(|status| status.conditions.iter().flatten()).collect();
    let conditions: Vec<_> = conditions.into_iter().filter(|one| !OVER.contains(&one.type_.as_str())).collect();
    let patch = json!({"status": {
        "capacity": {"storage": given}, "conditions": conditions, "allocatedResourceStatuses": {"storage": null},
    }});
    let (namespace, claim) = (claim.metadata.namespace.as_deref().unwrap_or(""), claim.metadata.name.as_deref().unwrap_or(""));
    wanted.kubelet.client.patch(&CLAIMS, namespace, claim, "status", &PatchKind::Merge, &patch).await?;
    let message = format!("MountVolume.NodeExpandVolume succeeded for volume {name:?}");
    wanted.kubelet.event(wanted.pod, "", EventKind::Normal, "FileSystemResizeSuccessful", &message);
    Ok(())
}
