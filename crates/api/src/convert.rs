//! Objects of one kind in two versions: autoscalers (v1 and v2) and events (core and `events.k8s.io`).
//!
//! Both are stored in one version only: autoscalers in `autoscaling/v2`, events in the core group.

mod event;
mod horizontal_pod_autoscaler;

use crate::object::Object;

/// A conversion that nobody has written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no conversion of {kind} from {from} to {to}")]
pub struct ConvertError {
    kind: String,
    from: String,
    to: String,
}

/// The version in which objects of a group and kind are stored, where it is not the only one.
pub fn storage_version(group: &str, kind: &str) -> Option<&'static str> {
    match (group, kind) {
        ("autoscaling", "HorizontalPodAutoscaler") => Some("autoscaling/v2"),
        ("events.k8s.io" | "", "Event") => Some("v1"),
        _ => None,
    }
}

/// Brings an object from its own version into another one (`v1`, `autoscaling/v2`...). The result is in normal form.
///
/// # Errors
/// When the kind is not served in both versions.
pub fn convert(object: &mut Object, to: &str) -> Result<(), ConvertError> {
    let from = object.api_version().to_owned();
    if from == to {
        return Ok(());
    }
    match (object.kind(), from.as_str(), to) {
        ("HorizontalPodAutoscaler", "autoscaling/v1", "autoscaling/v2") => horizontal_pod_autoscaler::to_v2(object),
        ("HorizontalPodAutoscaler", "autoscaling/v2", "autoscaling/v1") => horizontal_pod_autoscaler::to_v1(object),
        ("Event", "v1", "events.k8s.io/v1") => event::to_events(object),
        ("Event", "events.k8s.io/v1", "v1") => event::to_core(object),
        (kind, _, _) => return Err(ConvertError { kind: kind.to_owned(), from, to: to.to_owned() }),
    }
    object.0.insert("apiVersion".into(), to.into());
    let (group, version) = to.split_once('/').unwrap_or(("", to));
    if let Some(schema) = crate::schema::builtin_kind(group, version, object.kind()) {
        crate::normal::normalize(&mut object.0, &schema);
    }
    Ok(())
}

/// A field label of a request in the words of the stored form: events are selected by `regarding.name` in one group
/// and by `involvedObject.name` in the other.
pub fn stored_field_label<'a>(group: &str, kind: &str, label: &'a str) -> &'a str {
    if (group, kind) != ("events.k8s.io", "Event") {
        return label;
    }
    let known = crate::kinds::events::event::FIELD_LABELS.iter().find(|(ours, _)| *ours == label);
    known.map_or(label, |(_, stored)| stored)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(from: serde_json::Value, to: &str) -> Object {
        let mut object = Object::from_value(from.clone()).unwrap();
        convert(&mut object, to).unwrap();
        let there = object.clone();
        convert(&mut object, from["apiVersion"].as_str().unwrap()).unwrap();
        assert_eq!(object.into_value(), from, "there and back");
        there
    }

    #[test]
    fn autoscaler_there_and_back() {
        let v1 = json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "targetCPUUtilizationPercentage": 50},
            "status": {"currentReplicas": 2, "desiredReplicas": 2, "currentCPUUtilizationPercentage": 40}
        });
        let v2 = check(v1, "autoscaling/v2");
        assert_eq!(
            v2.at(&["spec", "metrics"]).unwrap(),
            &json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}])
        );
        let v2 = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "10"}}}
            ], "behavior": {"scaleUp": {"stabilizationWindowSeconds": 0}}},
            "status": {"currentMetrics": null, "desiredReplicas": 0, "conditions": [{"type": "AbleToScale", "status": "True", "lastTransitionTime": null}]}
        });
        let v1 = check(v2, "autoscaling/v1");
        assert_eq!(v1.at(&["spec", "targetCPUUtilizationPercentage"]), Some(&json!(50)));
        assert!(v1.annotation("autoscaling.alpha.kubernetes.io/metrics").unwrap().contains("qps"));
    }

    #[test]
    fn event_there_and_back() {
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "regarding": {"kind": "Pod", "name": "p", "namespace": "n"}, "note": "text", "reason": "R", "type": "Normal", "action": "A",
            "reportingController": "c", "reportingInstance": "i", "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null, "deprecatedSource": {}
        });
        let core = check(event, "v1");
        assert_eq!(core.text_at(&["involvedObject", "name"]), "p");
        assert_eq!(core.text_at(&["message"]), "text");
        assert_eq!(stored_field_label("events.k8s.io", "Event", "regarding.name"), "involvedObject.name");
    }
}
