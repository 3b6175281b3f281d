//! Deployments.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind, keep, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, pod_template};

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "apps.v1.Deployment"),
        prepare_update: keep_status,
        prepare_status_update: keep_spec_and_labels,
        validate,
        validate_update,
        validate_status_update: |new, old, causes| validate_status(new.map("status"), old.map("status"), causes),
        columns: Some(columns),
        warnings: pod_template::named_warnings,
        generation: Generation::SpecAndAnnotations,
        ..Kind::plain("apps", "Deployment")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("apps.v1.Deployment") }
}

fn default(object: &mut Map<String, Value>) {
    let spec = object.object_made("spec");
    spec.default("replicas", 1);
    let strategy = spec.object_made("strategy");
    strategy.default_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.object_made("rollingUpdate");
        rolling.default("maxUnavailable", "25%");
        rolling.default("maxSurge", "25%");
    }
    spec.default("revisionHistoryLimit", 10);
    spec.default("progressDeadlineSeconds", 600);
}

/// A status update of a workload leaves its labels alone, too.
pub(super) fn keep_spec_and_labels(new: &mut Object, old: &Object) {
    keep(new, old, "spec");
    match old.metadata().and_then(|meta| meta.get("labels")).cloned() {
        Some(labels) => new.set_meta("labels", labels),
        None => drop(new.metadata_mut().remove("labels")),
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    check::non_negative_field(spec, "replicas", &SPEC, causes);
    pod_template::validate_workload(spec, &SPEC, "deployment", "ReplicaSet", causes);
    validate_strategy(spec.map("strategy"), &SPEC.field("strategy"), causes);
    check::non_negative_field(spec, "minReadySeconds", &SPEC, causes);
    check::non_negative_field(spec, "revisionHistoryLimit", &SPEC, causes);
    check::non_negative_field(spec, "progressDeadlineSeconds", &SPEC, causes);
    if let Some(deadline) = spec.int("progressDeadlineSeconds")
        && deadline <= spec.int("minReadySeconds").unwrap_or(0)
    {
        causes.bad(&SPEC.field("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    }
}

fn validate_status(status: &Map<String, Value>, before: &Map<String, Value>, causes: &mut Causes) {
    const STATUS: Path<'static> = Path::root("status");
    let number = |field: &str| status.int(field).unwrap_or(0);
    for field in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ] {
        check::non_negative_field(status, field, &STATUS, causes);
    }
    for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        if number(field) > number("replicas") {
            causes.bad(&STATUS.field(field), number(field), "cannot be greater than status.replicas");
        }
    }
    if number("availableReplicas") > number("readyReplicas") {
        causes.bad(&STATUS.field("availableReplicas"), number("availableReplicas"), "cannot be greater than readyReplicas");
    }
    if before.int("collisionCount").is_some_and(|count| status.int("collisionCount").is_none_or(|new| new < count)) {
        causes.bad(&STATUS.field("collisionCount"), number("collisionCount"), "cannot be decremented");
    }
}

fn validate_strategy(strategy: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let at = path.field("rollingUpdate");
    match (strategy.text("type"), strategy.object("rollingUpdate")) {
        ("Recreate", Some(_)) => causes.refused(&at, "may not be specified when strategy `type` is 'Recreate'"),
        ("Recreate", None) => {}
        ("RollingUpdate", None) => causes.needed(&at, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(rolling)) => {
            let zero = Value::from(0);
            let unavailable = rolling.some("maxUnavailable").unwrap_or(&zero);
            let surge = rolling.some("maxSurge").unwrap_or(&zero);
            check::int_or_percent(unavailable, &at.field("maxUnavailable"), causes);
            check::int_or_percent(surge, &at.field("maxSurge"), causes);
            if check::scaled_is_zero(unavailable) && check::scaled_is_zero(surge) {
                causes.bad(&at.field("maxUnavailable"), unavailable.clone(), "may not be 0 when `maxSurge` is 0");
            }
            check::at_most_hundred_percent(unavailable, &at.field("maxUnavailable"), causes);
        }
        _ => {
            let shown = crate::shown::internal("apps.DeploymentStrategy", &Value::Object(strategy.clone()));
            let message = format!("Unsupported value: {shown}: supported values: \"Recreate\", \"RollingUpdate\"");
            causes.0.push(crate::Cause { reason: "FieldValueNotSupported", field: path.text(), message });
        }
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    check::immutable_field(new.map("spec"), old.map("spec"), "selector", &SPEC, causes);
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (object.map("spec"), object.map("status"));
    let number = |map: &Map<String, Value>, field: &str| map.int(field).unwrap_or(0);
    let [names, images] = print::containers(spec.map("template").map("spec"));
    vec![
        object.name().into(),
        format!("{}/{}", number(status, "readyReplicas"), number(spec, "replicas")).into(),
        number(status, "updatedReplicas").into(),
        number(status, "availableReplicas").into(),
        print::age(object, clock),
        names,
        images,
        print::selector(spec.object("selector")),
    ]
}
