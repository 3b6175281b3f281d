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

/// Conditions that are ours alone to say.
const OWN_CONDITIONS: [&str; 7] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", "PodResizePending", "PodResizeInProgress"];

/// Makes the patch of a whole status that leaves nothing of an older one: what is no longer said is taken away. Conditions of
/// others stay, since they are merged by type. `told` is what the API has been told before.
fn patch(mut value: Value, told: &PodStatus) -> Value {
    let had: Vec<&str> = told.conditions.iter().flatten().map(|condition| condition.type_.as_str()).collect();
    let mut conditions = value["conditions"].take().as_array().cloned().unwrap_or_default();
    for condition in &mut conditions {
        for field in ["reason", "message", "lastProbeTime"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    for kind in OWN_CONDITIONS.iter().filter(|kind| had.contains(*kind)) {
        if !conditions.iter().any(|condition| condition["type"] == **kind) {
            conditions.push(json!({"$patch": "delete", "type": kind}));
        }
    }
    if !conditions.is_empty() {
        value["conditions"] = conditions.into();
    } else if let Some(fields) = value.as_object_mut() {
        fields.remove("conditions");
    }
    for list in ["podIPs", "hostIPs"] {
        if let Some(list) = value.get_mut(list).and_then(Value::as_array_mut) {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    for (map, had) in [("resources", told.resources.is_some()), ("allocatedResources", told.allocated_resources.is_some())] {
        match value.get_mut(map).and_then(Value::as_object_mut) {
            // Servers drop a map with a directive where there is nothing yet that it could be about.
            Some(map) if had => drop(map.insert("$patch".into(), "replace".into())),
            Some(_) => {}
            None => value[map] = Value::Null,
        }
    }
    for field in ["reason", "message"] {
        if value.get(field).is_none() {
            value[field] = Value::Null;
        }
    }
    value
}

/// Writes the status. `told` is what the API has been told before.
///
/// # Errors
/// The Status of the answer; 404 where the pod is gone, 409 where another of the same name is there.
pub async fn status(client: &Client, pod: &Pod, status: &PodStatus, told: &PodStatus) -> Result<(), Status> {
    let value = patch(serde_json::to_value(status).map_err(Status::internal)?, told);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the API has after a patch from one status to the next.
    fn check(old: Value, new: Value, wanted: Value) {
        let told: PodStatus = serde_json::from_value(old.clone()).unwrap();
        let made = patch(new.clone(), &told);
        let gone: Vec<&str> = made["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["$patch"] == "delete")
            .filter_map(|one| one["type"].as_str())
            .collect();
        assert_eq!(json!(gone), wanted["gone"], "{made}");
        assert_eq!(made.get("message"), wanted.get("message"), "{made}");
    }

    #[test]
    fn nothing_of_an_older_status_stays() {
        let pending = json!({"type": "PodResizePending", "status": "True"});
        let ready = json!({"type": "Ready", "status": "True"});
        let open = json!({"type": "example.com/open", "status": "True"});
        check(
            json!({"conditions": [ready, pending, open]}),
            json!({"conditions": [ready]}),
            json!({"gone": ["PodResizePending"], "message": null}),
        );
        check(json!({"conditions": [ready, open]}), json!({"message": "no"}), json!({"gone": ["Ready"], "message": "no"}));
        check(json!({}), json!({"conditions": [ready]}), json!({"gone": [], "message": null}));
    }

    #[test]
    fn resources_are_replaced_only_where_there_are_some() {
        let one = json!({"requests": {"cpu": "1"}});
        for (old, new, wanted) in [
            (json!({}), json!({"resources": one}), json!({"requests": {"cpu": "1"}})),
            (json!({}), json!({"resources": {}}), json!({})),
            (json!({"resources": {}}), json!({"resources": one}), json!({"requests": {"cpu": "1"}, "$patch": "replace"})),
            (json!({"resources": one}), json!({"resources": {}}), json!({"$patch": "replace"})),
            (json!({"resources": one}), json!({}), Value::Null),
        ] {
            let told: PodStatus = serde_json::from_value(old.clone()).unwrap();
            assert_eq!(patch(new.clone(), &told)["resources"], wanted, "{old} {new}");
        }
    }
}
