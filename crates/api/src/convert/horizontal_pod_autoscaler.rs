//! Autoscalers: v1 knows one CPU target; everything else of v2 travels in annotations of its v1 form.

use serde_json::{Map, Value, json};

use crate::object::Object;
use crate::read::{Read, Write, as_map};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn is_cpu_percent(metric: &Map<String, Value>, part: &str) -> bool {
    let resource = metric.map("resource");
    metric.text("type") == "Resource" && resource.text("name") == "cpu" && resource.map(part).has("averageUtilization")
}

/// From v2.
pub(super) fn to_v1(object: &mut Object) {
    let spec = object.map_at_mut(&["spec"]);
    let metrics = take_list(spec, "metrics");
    let behavior = spec.remove("behavior");
    let cpu = metrics.iter().map(as_map).position(|metric| is_cpu_percent(metric, "target"));
    if let Some(percent) = cpu.and_then(|index| metrics[index]["resource"]["target"]["averageUtilization"].as_i64()) {
        spec.insert("targetCPUUtilizationPercentage".into(), percent.into());
    }
    let others: Vec<Value> = metrics
        .into_iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != cpu)
        .map(|(_, metric)| older(&metric, "target", "target"))
        .collect();
    let status = object.map_at_mut(&["status"]);
    let current = take_list(status, "currentMetrics");
    let cpu = current.iter().map(as_map).position(|metric| is_cpu_percent(metric, "current"));
    if let Some(percent) = cpu.and_then(|index| current[index]["resource"]["current"]["averageUtilization"].as_i64()) {
        status.insert("currentCPUUtilizationPercentage".into(), percent.into());
    }
    let current: Vec<Value> = current.iter().map(|metric| older(metric, "current", "current")).collect();
    let current_is_cpu_alone =
        current.len() == 1 && cpu.is_some() && !current[0]["resource"].get("currentAverageValue").is_some_and(|value| value != "0");
    let conditions = take_list(status, "conditions");
    let mut annotate = |key: &str, value: Value| {
        if value.as_array().is_none_or(|items| !items.is_empty()) {
            object.metadata_mut().object_made("annotations").insert(key.into(), value.to_string().into());
        }
    };
    annotate(METRICS, others.into());
    if !current_is_cpu_alone {
        annotate(CURRENT, current.into());
    }
    annotate(CONDITIONS, conditions.into());
    if let Some(behavior) = behavior {
        annotate(BEHAVIOR, behavior);
    }
}

/// From v1.
pub(super) fn to_v2(object: &mut Object) {
    let mut note = |key: &str| -> Option<Value> {
        let text = object.metadata_mut().object_mut("annotations")?.remove(key)?;
        serde_json::from_str(text.as_str()?).ok()
    };
    let (metrics, current, conditions, behavior) = (note(METRICS), note(CURRENT), note(CONDITIONS), note(BEHAVIOR));
    if object.metadata().is_some_and(|meta| meta.map("annotations").is_empty()) {
        object.metadata_mut().remove("annotations");
    }
    let list = |value: Option<Value>| value.and_then(|value| value.as_array().cloned()).unwrap_or_default();
    let spec = object.map_at_mut(&["spec"]);
    let mut all: Vec<Value> = Vec::new();
    if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|percent| !percent.is_null()) {
        all.push(
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}),
        );
    }
    all.extend(list(metrics).iter().map(|metric| newer(metric, "target", "target")));
    if !all.is_empty() {
        spec.insert("metrics".into(), all.into());
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".into(), behavior);
    }
    let status = object.map_at_mut(&["status"]);
    let percent = status.remove("currentCPUUtilizationPercentage").filter(|percent| !percent.is_null());
    let mut all: Vec<Value> = list(current).iter().map(|metric| newer(metric, "current", "current")).collect();
    let told = all.iter().map(as_map).any(|metric| is_cpu_percent(metric, "current"));
    if let Some(percent) = percent.filter(|_| !told) {
        all.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
    }
    if !all.is_empty() {
        status.insert("currentMetrics".into(), all.into());
    }
    let conditions = list(conditions);
    if !conditions.is_empty() {
        status.insert("conditions".into(), conditions.into());
    }
}

fn take_list(map: &mut Map<String, Value>, field: &str) -> Vec<Value> {
    match map.remove(field) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn source_of(metric: &Value) -> (String, Map<String, Value>) {
    let kind = metric.text("type");
    let mut field = kind.to_owned();
    if let Some(first) = field.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let source = metric.map(&field).clone();
    (field, source)
}

/// A metric in the words of v1; `part` is the nested object of v2, `prefix` starts the names of v1.
fn older(metric: &Value, part: &str, prefix: &str) -> Value {
    let (field, mut source) = source_of(metric);
    let values = source.remove(part).unwrap_or_default();
    for (new, old) in [("averageUtilization", "AverageUtilization"), ("averageValue", "AverageValue"), ("value", "Value")] {
        if let Some(value) = values.get(new).filter(|value| !value.is_null()) {
            let name = if old == "AverageValue" && matches!(field.as_str(), "object") {
                "averageValue".to_owned()
            } else {
                format!("{prefix}{old}")
            };
            source.insert(name, value.clone());
        }
    }
    if let Some(Value::Object(metric)) = source.remove("metric") {
        if let Some(name) = metric.get("name") {
            source.insert("metricName".into(), name.clone());
        }
        if let Some(selector) = metric.get("selector") {
            let name = if field == "external" { "metricSelector" } else { "selector" };
            source.insert(name.into(), selector.clone());
        }
    }
    if let Some(described) = source.remove("describedObject") {
        source.insert("target".into(), described);
    }
    json!({"type": metric["type"], field: source})
}

/// A metric of v1 in the words of v2.
fn newer(metric: &Value, part: &str, prefix: &str) -> Value {
    let (field, mut source) = source_of(metric);
    let mut values = Map::new();
    if let Some(described) = source.remove("target").filter(|_| field == "object") {
        source.insert("describedObject".into(), described);
    }
    let mut kind = "";
    for (new, old, name) in [
        ("averageUtilization", "AverageUtilization", "Utilization"),
        ("value", "Value", "Value"),
        ("averageValue", "AverageValue", "AverageValue"),
    ] {
        let value =
            source.remove(&format!("{prefix}{old}")).or_else(|| if old == "AverageValue" { source.remove("averageValue") } else { None });
        if let Some(value) = value {
            values.insert(new.into(), value);
            kind = name;
        }
    }
    if part == "target" {
        values.insert("type".into(), kind.into());
    }
    source.insert(part.into(), values.into());
    let name = source.remove("metricName");
    let selector = source.remove("metricSelector").or_else(|| source.remove("selector"));
    if name.is_some() || selector.is_some() {
        let mut about = Map::new();
        about.extend(name.map(|name| ("name".to_owned(), name)));
        about.extend(selector.map(|selector| ("selector".to_owned(), selector)));
        source.insert("metric".into(), about.into());
    }
    json!({"type": metric["type"], field: source})
}
