//! Replica sets.

use serde_json::{Map, Value};

use super::deployment::keep_spec_and_labels;
use crate::causes::Causes;
use crate::check;
use crate::kind::{Clock, Generation, Kind, Selectable, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, pod_template};

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "apps.v1.ReplicaSet"),
        prepare_update: keep_status,
        prepare_status_update: keep_spec_and_labels,
        validate,
        validate_update,
        selectable: &[Selectable {
            field: "status.replicas",
            value: |object| object.map("status").int("replicas").unwrap_or(0).to_string().into(),
        }],
        columns: Some(columns),
        warnings: pod_template::named_warnings,
        generation: Generation::Spec,
        ..Kind::plain("apps", "ReplicaSet")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default: |object| object.object_made("spec").default("replicas", 1), ..Rules::of("apps.v1.ReplicaSet") }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    check::non_negative_field(spec, "replicas", &SPEC, causes);
    check::non_negative_field(spec, "minReadySeconds", &SPEC, causes);
    pod_template::validate_workload(spec, &SPEC, "deployment", "ReplicaSet", causes);
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    check::immutable_field(new.map("spec"), old.map("spec"), "selector", &SPEC, causes);
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (object.map("spec"), object.map("status"));
    let number = |map: &Map<String, Value>, field: &str| Value::from(map.int(field).unwrap_or(0));
    let [names, images] = print::containers(spec.map("template").map("spec"));
    vec![
        object.name().into(),
        number(spec, "replicas"),
        number(status, "replicas"),
        number(status, "readyReplicas"),
        print::age(object, clock),
        names,
        images,
        print::selector(spec.object("selector")),
    ]
}
