//! Horizontal pod autoscalers: v2 is stored, v1 is a narrower view of it.

use serde_json::{Map, Value, json};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind, keep_spec, keep_status, reset_status_of};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::Rules;

const SPEC: Path<'static> = Path::root("spec");
/// Metric types with the fields that hold them.
const METRICS: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
/// The types in sorted order.
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create,
        prepare_update: keep_status,
        prepare_status_update: keep_spec,
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(columns),
        ..Kind::plain("autoscaling", "HorizontalPodAutoscaler")
    }
}

/// Defaults of v2.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("autoscaling.v2.HorizontalPodAutoscaler") }
}

fn prepare_create(object: &mut Object) {
    let v1 = object.api_version() == "autoscaling/v1";
    reset_status_of(object, if v1 { "autoscaling.v1.HorizontalPodAutoscaler" } else { "autoscaling.v2.HorizontalPodAutoscaler" });
}

fn default(object: &mut Map<String, Value>) {
    let spec = object.object_made("spec");
    spec.default("minReplicas", 1);
    if spec.list("metrics").is_empty() {
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        spec.insert("metrics".into(), json!([metric]));
    }
    let Some(behavior) = spec.object_mut("behavior") else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let up = behavior.object_made("scaleUp");
    up.default("stabilizationWindowSeconds", 0);
    up.default("selectPolicy", "Max");
    up.default("policies", json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, percent]));
    let down = behavior.object_made("scaleDown");
    down.default("selectPolicy", "Max");
    down.default("policies", json!([percent]));
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    let (min, max) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or(0));
    if let Some(min) = min.filter(|min| *min < 1) {
        causes.bad(&SPEC.field("minReplicas"), min, "must be greater than or equal to 1");
    }
    if max == 0 {
        causes.needed(&SPEC.field("maxReplicas"), "must be set and greater than 0");
    } else if max < 0 {
        causes.bad(&SPEC.field("maxReplicas"), max, "must be greater than 0");
    }
    if min.is_some_and(|min| max < min) {
        causes.bad(&SPEC.field("maxReplicas"), max, "must be greater than or equal to `minReplicas`");
    }
    validate_target(spec.map("scaleTargetRef"), &SPEC.field("scaleTargetRef"), causes);
    if let Some(percent) = spec.int("targetCPUUtilizationPercentage").filter(|percent| *percent < 1) {
        causes.bad(&SPEC.field("targetCPUUtilizationPercentage"), percent, "must be greater than 0");
    }
    let list = SPEC.field("metrics");
    for (index, metric) in spec.maps("metrics").enumerate() {
        validate_metric(metric, &list.index(index), causes);
    }
    let behavior = SPEC.field("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = spec.map("behavior").object(direction) {
            validate_rules(rules, &behavior.field(direction), causes);
        }
    }
}

fn validate_target(target: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    for field in ["kind", "name"] {
        if causes.need_text(target, field, path) {
            causes.each(&path.field(field), target.text(field), names::path_segment_errors(target.text(field)));
        }
    }
    let api_version = target.text("apiVersion");
    if !api_version.contains('/') && target.text("kind") != "ReplicationController" {
        causes.bad(&path.field("apiVersion"), api_version, "apiVersion must specify API group");
    }
}

fn validate_metric(metric: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let kind = metric.text("type");
    if kind.is_empty() {
        causes.needed(&path.field("type"), "must specify a metric source type");
    }
    if !TYPES.contains(&kind) {
        causes.unsupported(&path.field("type"), kind, &TYPES);
    }
    let mut present: Vec<&str> = Vec::new();
    for (name, field) in METRICS {
        if let Some(source) = metric.object(field) {
            present.push(field);
            if present.len() == 1 {
                validate_source(name, source, &path.field(field), causes);
            }
        }
    }
    let expected = METRICS.iter().find(|(name, _)| *name == kind).map_or("", |(_, field)| field);
    if !expected.is_empty() && !present.contains(&expected) {
        causes.needed(&path.field(expected), "must populate information for the given metric source");
    }
    if expected.is_empty() {
        causes.unsupported(&path.field("type"), kind, &TYPES);
    }
    if present.len() != 1 {
        for other in present.into_iter().filter(|field| *field != expected) {
            causes.refused(&path.field(other), "must populate the given metric source only");
        }
    }
}

fn validate_source(kind: &str, source: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let (target, goal) = (source.map("target"), path.field("target"));
    match kind {
        "Resource" | "ContainerResource" => {
            if source.text("name").is_empty() {
                causes.needed(&path.field("name"), "must specify a resource name");
            }
            if kind == "ContainerResource" && source.text("container").is_empty() {
                causes.needed(&path.field("container"), "must specify a container");
            }
            if !target.has("averageUtilization") && !target.has("averageValue") {
                causes.needed(&goal.field("averageUtilization"), "must set either a target raw value or a target utilization");
            } else if target.has("averageUtilization") && target.has("averageValue") {
                causes.refused(&goal.field("averageValue"), "may not set both a target raw value and a target utilization");
            }
        }
        "Object" => {
            validate_target_name(source.map("describedObject"), &path.field("describedObject"), causes);
            validate_metric_name(source, path, causes);
            if !target.has("value") && !target.has("averageValue") {
                causes.needed(&goal.field("averageValue"), "must set either a target value or averageValue");
            }
        }
        "External" => {
            validate_metric_name(source, path, causes);
            if !target.has("value") && !target.has("averageValue") {
                causes.needed(&goal.field("averageValue"), "must set either a target value for metric or a per-pod target");
            } else if target.has("value") && target.has("averageValue") {
                causes.refused(&goal.field("value"), "may not set both a target value for metric and a per-pod target");
            }
        }
        _ => {
            validate_metric_name(source, path, causes);
            if !target.has("averageValue") {
                causes.needed(&goal.field("averageValue"), "must specify a positive target averageValue");
            }
        }
    }
    if target.text("type").is_empty() {
        causes.needed(&goal.field("type"), "must specify a metric target type");
    }
    if !matches!(target.text("type"), "Utilization" | "Value" | "AverageValue") {
        causes.bad(&goal.field("type"), target.text("type"), "must be either Utilization, Value, or AverageValue");
    }
    if let Some(percent) = target.int("averageUtilization").filter(|percent| *percent < 1) {
        causes.bad(&goal.field("averageUtilization"), percent, "must be greater than 0");
    }
    for field in ["value", "averageValue"] {
        if let Some(amount) = target.quantity(field).filter(|amount| amount.is_negative() || amount.is_zero()) {
            causes.bad(&goal.field(field), amount.to_string(), "must be positive");
        }
    }
}

fn validate_metric_name(source: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let (name, metric) = (source.map("metric").text("name"), path.field("metric"));
    if name.is_empty() {
        causes.needed(&metric.field("name"), "must specify a metric name");
    } else {
        causes.each(&metric.field("name"), name, names::path_segment_errors(name));
    }
}

fn validate_target_name(target: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    for field in ["kind", "name"] {
        if causes.need_text(target, field, path) {
            causes.each(&path.field(field), target.text(field), names::path_segment_errors(target.text(field)));
        }
    }
}

fn validate_rules(rules: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    if let Some(seconds) = rules.int("stabilizationWindowSeconds") {
        let at = path.field("stabilizationWindowSeconds");
        check::non_negative(seconds, &at, causes);
        if seconds > 3600 {
            causes.bad(&at, seconds, "must be less than or equal to 3600");
        }
    }
    causes.one_of(rules, "selectPolicy", path, &["Disabled", "Max", "Min"]);
    let list = path.field("policies");
    if rules.list("policies").is_empty() {
        causes.needed(&list, "must specify at least one Policy");
    }
    for (index, policy) in rules.maps("policies").enumerate() {
        let at = list.index(index);
        if !matches!(policy.text("type"), "Percent" | "Pods") {
            causes.unsupported(&at.field("type"), policy.text("type"), &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"] {
            let number = policy.int(field).unwrap_or(0);
            if number <= 0 {
                causes.bad(&at.field(field), number, "must be greater than zero");
            }
        }
        let period = policy.int("periodSeconds").unwrap_or(0);
        if period > 1800 {
            causes.bad(&at.field("periodSeconds"), period, "must be less than or equal to 1800");
        }
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (object.map("spec"), object.map("status"));
    let target = spec.map("scaleTargetRef");
    vec![
        object.name().into(),
        format!("{}/{}", target.text("kind"), target.text("name")).into(),
        targets(spec, status).into(),
        spec.int("minReplicas").map_or_else(|| "<unset>".to_owned(), |min| min.to_string()).into(),
        spec.int("maxReplicas").unwrap_or(0).into(),
        status.int("currentReplicas").unwrap_or(0).into(),
        print::age(object, clock),
    ]
}

fn targets(spec: &Map<String, Value>, status: &Map<String, Value>) -> String {
    if let Some(percent) = spec.int("targetCPUUtilizationPercentage") {
        let current = status.int("currentCPUUtilizationPercentage");
        let current = current.map_or_else(|| "<unknown>".to_owned(), |current| format!("{current}%"));
        return format!("cpu: {current}/{percent}%");
    }
    let all: Vec<String> =
        spec.maps("metrics").enumerate().map(|(index, metric)| target(metric, status.maps("currentMetrics").nth(index))).collect();
    match all.len() {
        0 => "<none>".into(),
        1 | 2 => all.join(", "),
        count => format!("{} + {} more...", all[..2].join(", "), count - 2),
    }
}

fn target(metric: &Map<String, Value>, status: Option<&Map<String, Value>>) -> String {
    let kind = metric.text("type");
    let Some((_, field)) = METRICS.iter().find(|(name, _)| *name == kind) else { return "<unknown type>".into() };
    let source = metric.map(field);
    let goal = source.map("target");
    let current = |name: &str| {
        let value = status.and_then(|status| status.map(field).map("current").quantity(name));
        value.map_or_else(|| "<unknown>".to_owned(), |value| value.to_string())
    };
    let wanted = |name: &str| goal.quantity(name).unwrap_or_default().to_string();
    let average = goal.has("averageValue");
    match kind {
        "Resource" | "ContainerResource" if average => {
            format!("{}: {}/{}", source.text("name"), current("averageValue"), wanted("averageValue"))
        }
        "Resource" | "ContainerResource" => {
            let percent = |value: Option<i64>, nothing: &str| value.map_or_else(|| nothing.to_owned(), |value| format!("{value}%"));
            let now = status.and_then(|status| status.map(field).map("current").int("averageUtilization"));
            format!("{}: {}/{}", source.text("name"), percent(now, "<unknown>"), percent(goal.int("averageUtilization"), "<auto>"))
        }
        "Pods" => format!("{}/{}", current("averageValue"), wanted("averageValue")),
        _ if average => format!("{}/{} (avg)", current("averageValue"), wanted("averageValue")),
        _ => format!("{}/{}", current("value"), wanted("value")),
    }
}
