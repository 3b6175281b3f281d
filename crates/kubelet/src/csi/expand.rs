//! Volumes that grow: what the node does when its part is due, and what the claim shows of it.

use std::path::Path;

use api::Quantity;
use client::{EventKind, PatchKind, ResourceId};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeClaimStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::messages::{CapacityRange, NodeExpandVolumeRequest, NodeExpandVolumeResponse};
use super::mount::text;
use super::volume::Wanted;
use super::{Ability, Driver};
use crate::volumes::VolumeError;

const CLAIMS: ResourceId = ResourceId::new("", "v1", "persistentvolumeclaims");
/// Condition of a claim whose node could not grow the volume.
const FAILED: &str = "NodeResizeError";
/// Conditions of a claim that are over when it has grown.
const OVER: &[&str] = &["FileSystemResizePending", "Resizing", "ControllerResizeError", FAILED];

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
    let Some(due) = claim.status.as_ref().and_then(|status| due(status, given.map(|given| &*given.0))) else { return Ok(()) };
    if due.noted {
        let patch = json!({
            "metadata": {"resourceVersion": claim.metadata.resource_version},
            "status": {"allocatedResourceStatuses": {"storage": "NodeResizeInProgress"}},
        });
        write(wanted, claim, &patch).await?;
    }
    let block = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    let request = NodeExpandVolumeRequest {
        volume_id: wanted.handle.clone(),
        volume_path: text(path),
        range: Some(CapacityRange { required: value(due.size), limit: 0 }),
        staging_path: if driver.can(Ability::Stage) { text(staging) } else { String::new() },
        capability: Some(wanted.capability(driver, block)),
        secrets: wanted.expand_secrets().await?,
    };
    let name = &wanted.spec_name;
    if let Err(error) = driver.call::<NodeExpandVolumeResponse>("NodeExpandVolume", &request).await {
        let message = format!("NodeExpandVolume.NodeExpandVolume failed for volume {name:?} : {error}");
        wanted.kubelet.event(wanted.pod, "", EventKind::Warning, "VolumeResizeFailed", &message);
        if due.noted && error.is_final() {
            let infeasible = error.is_infeasible() || given_up(claim, due.size);
            write(wanted, claim, &failure(claim, &error, infeasible)).await?;
        }
        // A volume that cannot grow while it is in use is no reason to keep it from the pod.
        return if error.is_failed_precondition() { Ok(()) } else { Err(error) };
    }
    let patch = json!({"status": {
        "capacity": {"storage": due.size}, "conditions": conditions(claim, |kind| !OVER.contains(&kind)),
        "allocatedResourceStatuses": {"storage": null},
    }});
    write(wanted, claim, &patch).await?;
    let message = format!("MountVolume.NodeExpandVolume succeeded for volume {name:?}");
    wanted.kubelet.event(wanted.pod, "", EventKind::Normal, "FileSystemResizeSuccessful", &message);
    Ok(())
}

/// What is to be done on the node.
struct Due<'a> {
    size: &'a str,
    /// Whoever grows the volume's other part notes in the claim how far it is, and so does the node.
    noted: bool,
}

/// Whether the node's part is due. Who notes nothing in the claim means the size of the volume.
fn due<'a>(status: &'a PersistentVolumeClaimStatus, given: Option<&'a str>) -> Option<Due<'a>> {
    let phase = status.allocated_resource_statuses.as_ref().and_then(|phases| phases.get("storage"));
    if phase.is_none() && status.allocated_resources.is_none() {
        let shown = status.capacity.as_ref()?.get("storage")?;
        return given.filter(|given| value(given) > value(&shown.0)).map(|size| Due { size, noted: false });
    }
    let size = &status.allocated_resources.as_ref()?.get("storage")?.0;
    matches!(phase.map(String::as_str), Some("NodeResizePending" | "NodeResizeInProgress")).then_some(Due { size, noted: true })
}

/// Whether the volume failed to grow before and its claim asks for another size by now: then nobody waits for this one.
fn given_up(claim: &PersistentVolumeClaim, size: &str) -> bool {
    let asked = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    let failed = claim.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|one| one.type_ == FAILED);
    failed && asked.is_some_and(|asked| value(&asked.0) != value(size))
}

/// What the claim shows of a failure.
fn failure(claim: &PersistentVolumeClaim, error: &VolumeError, infeasible: bool) -> Value {
    let known = |one: &&PersistentVolumeClaimCondition| one.type_ == FAILED && one.status == "True";
    let mut shown = conditions(claim, |_| true);
    if !shown.iter().any(|one| known(&one)) {
        shown.retain(|one| one.type_ != FAILED);
        shown.push(PersistentVolumeClaimCondition {
            type_: FAILED.to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(Timestamp::now())),
            message: Some(format!("failed to expand pvc with {error}")),
            ..PersistentVolumeClaimCondition::default()
        });
    }
    let phase = if infeasible { "NodeResizeInfeasible" } else { "NodeResizeInProgress" };
    json!({"status": {"conditions": shown, "allocatedResourceStatuses": {"storage": phase}}})
}

fn conditions(claim: &PersistentVolumeClaim, keep: impl Fn(&str) -> bool) -> Vec<PersistentVolumeClaimCondition> {
    let all = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    all.filter(|one| keep(&one.type_)).cloned().collect()
}

async fn write(wanted: &Wanted<'_>, claim: &PersistentVolumeClaim, patch: &Value) -> Result<(), VolumeError> {
    let (namespace, name) = (claim.metadata.namespace.as_deref().unwrap_or(""), claim.metadata.name.as_deref().unwrap_or(""));
    wanted.kubelet.client.patch(&CLAIMS, namespace, name, "status", &PatchKind::Merge, patch).await?;
    Ok(())
}

fn value(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, Quantity::value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claim_says_what_is_due() {
        let cases = [
            (json!({"capacity": {"storage": "1Gi"}}), Some(("2Gi", false))),
            (json!({"capacity": {"storage": "2Gi"}}), None),
            (json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"}}), None),
            (
                json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "3Gi"},
                    "allocatedResourceStatuses": {"storage": "NodeResizePending"}}),
                Some(("3Gi", true)),
            ),
            (
                json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "3Gi"},
                    "allocatedResourceStatuses": {"storage": "NodeResizeInfeasible"}}),
                None,
            ),
        ];
        for (status, expected) in cases {
            let parsed: PersistentVolumeClaimStatus = serde_json::from_value(status.clone()).expect("a status");
            assert_eq!(due(&parsed, Some("2Gi")).map(|due| (due.size, due.noted)), expected, "{status}");
        }
    }

    #[test]
    fn a_size_that_nobody_wants_any_more_is_given_up() {
        let claim = |asked: &str, kind: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({
                "spec": {"resources": {"requests": {"storage": asked}}}, "status": {"conditions": [{"type": kind, "status": "True"}]},
            }))
            .expect("a claim")
        };
        assert!(given_up(&claim("5Gi", FAILED), "9Gi"));
        assert!(!given_up(&claim("9Gi", FAILED), "9Gi"));
        assert!(!given_up(&claim("5Gi", "Resizing"), "9Gi"));
    }
}
