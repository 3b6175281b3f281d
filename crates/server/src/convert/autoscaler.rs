//! HorizontalPodAutoscaler: `autoscaling/v2` as it is stored, `autoscaling/v1` with one target for the CPU and
//! annotations for the rest.

use api::Object;
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn is_cpu(metric: &Value, side: &str) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu" && metric["resource"][side]["averageUtilization"].is_number()
}

/// To `autoscaling/v1`.
pub fn to_v1(scaler: &Object) -> Object {
    let mut object = scaler.clone();
    let mut annotations = Map::new();
    let spec = object.map_at_mut(&["spec"]);
    if let Some(Value::Array(metrics)) = spec.remove("metrics") {
        let cpu = metrics.iter().position(|metric| is_cpu(metric, "target"));
        if let Some(index) = cpu {
            spec.insert("targetCPUUtilizationPercentage".into(), metrics[index]["resource"]["target"]["averageUtilization"].clone());
        }
        let rest: Vec<&Value> = metrics.iter().enumerate().filter(|(index, _)| Some(*index) != cpu).map(|(_, metric)| metric).collect();
        if !rest.is_empty() {
            annotations.insert(METRICS.into(), json!(rest).to_string().into());
        }
    }
    if let Some(behavior) = spec.remove("behavior") {
        annotations.insert(BEHAVIOR.into(), behavior.to_string().into());
    }
    let status = object.map_at_mut(&["status"]);
    if let Some(Value::Array(metrics)) = status.remove("currentMetrics") {
        let cpu = metrics.iter().position(|metric| is_cpu(metric, "current"));
        if let Some(index) = cpu {
            status.insert("currentCPUUtilizationPercentage".into(), metrics[index]["resource"]["current"]["averageUtilization"].clone());
        }
        let rest: Vec<&Value> = metrics.iter().enumerate().filter(|(index, _)| Some(*index) != cpu).map(|(_, metric)| metric).collect();
        if !rest.is_empty() {
            annotations.insert(CURRENT.into(), json!(rest).to_string().into());
        }
    }
    if let Some(conditions) = status.remove("conditions") {
        annotations.insert(CONDITIONS.into(), conditions.to_string().into());
    }
    if !annotations.is_empty() {
        object.map_at_mut(&["metadata", "annotations"]).extend(annotations);
    }
    object
}

/// To `autoscaling/v2`.
pub fn to_v2(scaler: &Object) -> Object {
    let mut object = scaler.clone();
    let mut take = |name: &str| -> Option<Value> {
        let annotations = object.metadata_mut().get_mut("annotations")?.as_object_mut()?;
        serde_json::from_str(annotations.remove(name)?.as_str()?).ok()
    };
    let (metrics, current, conditions, behavior) = (take(METRICS), take(CURRENT), take(CONDITIONS), take(BEHAVIOR));
    if object.at(&["metadata", "annotations"]).and_then(Value::as_object).is_some_and(Map::is_empty) {
        object.metadata_mut().remove("annotations");
    }
    let list = |value: Option<Value>| value.and_then(|value| value.as_array().cloned()).unwrap_or_default();
    let mut metrics = list(metrics);
    let mut current = list(current);
    let spec = object.map_at_mut(&["spec"]);
    if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|percent| !percent.is_null()) {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if !metrics.is_empty() {
        spec.insert("metrics".into(), metrics.into());
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".into(), behavior);
    }
    let status = object.map_at_mut(&["status"]);
    if let Some(percent) = status.remove("currentCPUUtilizationPercentage").filter(|percent| !percent.is_null()) {
        let now = json!({"averageUtilization": percent, "averageValue": "0"});
        current.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "current": now}}));
    }
    if !current.is_empty() {
        status.insert("currentMetrics".into(), current.into());
    }
    if let Some(conditions) = conditions {
        status.insert("conditions".into(), conditions);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let old = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 70}}},
            ], "behavior": {"scaleUp": {"stabilizationWindowSeconds": 3}}},
            "status": {"conditions": [{"type": "AbleToScale", "status": "True"}]},
        });
        let old = Object::from_value(old).unwrap();
        let middle = to_v1(&old);
        assert_eq!(middle.at(&["spec", "targetCPUUtilizationPercentage"]), Some(&json!(50)));
        assert_eq!(to_v2(&middle), old);
    }
}
