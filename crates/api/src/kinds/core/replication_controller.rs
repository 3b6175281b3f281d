//! Replication controllers: selector and labels come from the template if nobody gives them.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind, Selectable, keep_spec, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, pod_template};

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "core.v1.ReplicationController"),
        prepare_update: keep_status,
        prepare_status_update: keep_spec,
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        selectable: &[Selectable {
            field: "status.replicas",
            value: |object| object.map("status").int("replicas").unwrap_or(0).to_string().into(),
        }],
        columns: Some(columns),
        warnings: pod_template::named_warnings,
        generation: Generation::Spec,
        ..Kind::plain("", "ReplicationController")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.ReplicationController") }
}

fn default(object: &mut Map<String, Value>) {
    let labels = object.map("spec").map("template").map("metadata").map("labels").clone();
    object.object_made("spec").default("replicas", 1);
    if labels.is_empty() {
        return;
    }
    if object.map("spec").map("selector").is_empty() {
        object.object_made("spec").insert("selector".into(), labels.clone().into());
    }
    if object.map("metadata").map("labels").is_empty() {
        object.object_made("metadata").insert("labels".into(), labels.into());
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    check::non_negative_field(spec, "minReadySeconds", &SPEC, causes);
    if spec.map("selector").is_empty() {
        causes.needed(&SPEC.field("selector"), "");
    }
    match spec.int("replicas") {
        Some(replicas) => check::non_negative(replicas, &SPEC.field("replicas"), causes),
        None => causes.needed(&SPEC.field("replicas"), ""),
    }
    let at = SPEC.field("template");
    let Some(template) = spec.object("template") else {
        causes.needed(&at, "");
        return;
    };
    let labels = template.map("metadata").map("labels");
    if !spec.map("selector").iter().all(|(key, value)| labels.get(key) == Some(value)) {
        let metadata = at.field("metadata");
        let labels = template.map("metadata").some("labels").cloned().unwrap_or(Value::Null);
        causes.bad(&metadata.field("labels"), labels, "`selector` does not match template `labels`");
    }
    pod_template::validate_always(template, &at, "ReplicationController", causes);
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
        print::labels(spec.map("selector")),
    ]
}
