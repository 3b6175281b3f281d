//! Resource claims: devices for pods.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind, keep_all_but_status, keep_status, reset_status_of};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "resource.v1.ResourceClaim"),
        prepare_update: keep_status,
        prepare_status_update: keep_all_but_status,
        status_keeps: &["spec", "metadata"],
        validate: |object, causes| validate_spec(object.map("spec"), &SPEC, causes),
        validate_update: |new, old, causes| check::immutable(new.get("spec"), old.get("spec"), &SPEC, causes),
        columns: Some(columns),
        ..Kind::plain("resource.k8s.io", "ResourceClaim")
    }
}

/// Validates the spec of a claim or of a template.
pub(super) fn validate_spec(spec: &serde_json::Map<String, Value>, path: &Path, causes: &mut Causes) {
    let devices = path.field("devices");
    let list = devices.field("requests");
    let mut seen: Vec<&str> = Vec::new();
    for (index, request) in spec.map("devices").maps("requests").enumerate() {
        let (at, name) = (list.index(index), request.text("name"));
        if causes.need_text(request, "name", &at) {
            causes.each(&at.field("name"), name, names::label_errors(name));
        }
        if seen.contains(&name) {
            causes.twice(&at.field("name"), name);
        }
        seen.push(name);
        match (request.object("exactly"), request.list("firstAvailable").is_empty()) {
            (Some(exact), true) => {
                causes.need_text(exact, "deviceClassName", &at.field("exactly"));
                causes.one_of(exact, "allocationMode", &at.field("exactly"), &["All", "ExactCount"]);
            }
            (Some(_), false) => {
                causes.bad(&at, Value::Null, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set")
            }
            (None, true) => causes.needed(&at, "exactly one of `exactly` or `firstAvailable` is required"),
            (None, false) => {}
        }
    }
}

fn columns(claim: &Object, clock: &Clock) -> Vec<Value> {
    let (status, deleted) = (claim.map("status"), claim.deletion_timestamp().is_some());
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    match status.object("allocation") {
        None if !deleted => states.push("pending"),
        None => {}
        Some(_) => {
            states.push("allocated");
            if !status.list("reservedFor").is_empty() {
                states.push("reserved");
            }
        }
    }
    vec![claim.name().into(), states.join(",").into(), print::age(claim, clock)]
}
