//! Tells the API what became of a pod: status patches and the final deletion.

use std::time::Duration;

use api::Status;
use client::{Client, DeleteOptions, PatchKind, ResourceId};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::model;

/// The resource of pods.
pub const PODS: ResourceId = ResourceId::new("", "v1", "pods");

/// How long a pod that is being started may go without telling so: most pods run before anybody could have read it.
pub const LINGER: Duration = Duration::from_millis(200);

/// Whether the phase can no longer change.
pub fn is_final(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Writes the status. Conditions of others stay: the patch merges them by type.
///
/// # Errors
/// The Status of the answer; 404 where the pod is gone, 409 where another of the same name is there.
pub async fn status(client: &Client, pod: &Pod, status: &PodStatus) -> Result<(), Status> {
    let mut value = serde_json::to_value(status).map_err(Status::internal)?;
    if let Some(list) = value.get_mut("podIPs").and_then(Value::as_array_mut) {
        list.insert(0, json!({"$patch": "replace"}));
    }
    if let Some(list) = value.get_mut("hostIPs").and_then(Value::as_array_mut) {
        list.insert(0, json!({"$patch": "replace"}));
    }
    let patch = if super::statics::is_static(pod) {
        // The object is the mirror pod, whose UID is the server's.
        json!({"status": value})
    } else {
        json!({"metadata": {"uid": model::uid(pod)}, "status": value})
    };
    client.patch(&PODS, model::namespace(pod), model::name(pod), "status", &PatchKind::Strategic, &patch).await.map(drop)
}

/// Removes the object of a pod that has ended; nobody else may, since only we know that it has.
pub async fn delete(client: &Client, pod: &Pod) {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(model::uid(pod)) };
    for attempt in 0..6u32 {
        match client.delete(&PODS, model::namespace(pod), model::name(pod), &options).await {
            Ok(()) => return,
            Err(status) if status.is_not_found() || status.is_conflict() => return,
            Err(status) => {
                tracing::debug!(pod = model::name(pod), %status, "pod was not deleted yet");
                tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
            }
        }
    }
}
