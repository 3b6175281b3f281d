//! Daemon sets.

use serde_json::{Map, Value};

use super::deployment::keep_spec_and_labels;
use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind, keep, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, pod_template};

const SPEC: Path<'static> = Path::root("spec");
/// Counts the changes of the template; older clients read it.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create,
        prepare_update,
        prepare_status_update: keep_spec_and_labels,
        validate,
        validate_update,
        columns: Some(columns),
        warnings: pod_template::warnings,
        generation: Generation::Spec,
        ..Kind::plain("apps", "DaemonSet")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("apps.v1.DaemonSet") }
}

fn default(object: &mut Map<String, Value>) {
    // The real server keeps the count in a field of its own and writes it as an annotation, also while it is 0.
    object.object_made("metadata").object_made("annotations").default_text(TEMPLATE_GENERATION, "0");
    let spec = object.object_made("spec");
    let strategy = spec.object_made("updateStrategy");
    strategy.default_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.object_made("rollingUpdate");
        rolling.default("maxUnavailable", 1);
        rolling.default("maxSurge", 0);
    }
    spec.default("revisionHistoryLimit", 10);
}

fn template_generation(object: &Object) -> i64 {
    object.annotation(TEMPLATE_GENERATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_template_generation(object: &mut Object, generation: i64) {
    object.metadata_mut().object_made("annotations").insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
}

fn prepare_create(object: &mut Object) {
    reset_status_of(object, "apps.v1.DaemonSet");
    let generation = template_generation(object).max(1);
    set_template_generation(object, generation);
}

fn prepare_update(new: &mut Object, old: &Object) {
    keep(new, old, "status");
    let changed = new.at(&["spec", "template"]) != old.at(&["spec", "template"]);
    let generation = template_generation(old) + i64::from(changed);
    if generation > 0 {
        set_template_generation(new, generation);
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    pod_template::validate_workload(spec, &SPEC, "daemonset", "DaemonSet", causes);
    check::non_negative_field(spec, "minReadySeconds", &SPEC, causes);
    let at = SPEC.field("updateStrategy");
    match (spec.map("updateStrategy").text("type"), spec.map("updateStrategy").object("rollingUpdate")) {
        ("OnDelete", _) => {}
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &at.field("rollingUpdate"), causes),
        ("RollingUpdate", None) => causes.needed(&at.field("rollingUpdate"), ""),
        (other, _) => causes.unsupported(&at.field("type"), other, &["OnDelete", "RollingUpdate"]),
    }
    check::non_negative_field(spec, "revisionHistoryLimit", &SPEC, causes);
}

fn validate_rolling(rolling: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let zero = Value::from(0);
    let unavailable = rolling.some("maxUnavailable").unwrap_or(&zero);
    let surge = rolling.some("maxSurge").unwrap_or(&zero);
    for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        check::int_or_percent(value, &path.field(field), causes);
        check::at_most_hundred_percent(value, &path.field(field), causes);
    }
    match (check::scaled_is_zero(unavailable), check::scaled_is_zero(surge)) {
        (false, false) => causes.bad(&path.field("maxSurge"), surge.clone(), "may not be set when maxUnavailable is non-zero"),
        (true, true) => causes.needed(&path.field("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    check::immutable_field(new.map("spec"), old.map("spec"), "selector", &SPEC, causes);
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (object.map("spec"), object.map("status"));
    let number = |field: &str| Value::from(status.int(field).unwrap_or(0));
    let pod = spec.map("template").map("spec");
    let [names, images] = print::containers(pod);
    vec![
        object.name().into(),
        number("desiredNumberScheduled"),
        number("currentNumberScheduled"),
        number("numberReady"),
        number("updatedNumberScheduled"),
        number("numberAvailable"),
        print::labels(pod.map("nodeSelector")),
        print::age(object, clock),
        names,
        images,
        print::selector(spec.object("selector")),
    ]
}
