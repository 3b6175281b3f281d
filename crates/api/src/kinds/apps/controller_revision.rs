//! Controller revisions: snapshots of a workload's template that never change.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

/// The kind.
pub const fn kind() -> Kind {
    Kind { validate, validate_update, columns: Some(columns), ..Kind::plain("apps", "ControllerRevision") }
}

fn validate(object: &Object, causes: &mut Causes) {
    match object.int("revision") {
        Some(revision) => check::non_negative(revision, &Path::root("revision"), causes),
        None => causes.needed(&Path::root("revision"), ""),
    }
    if !object.has("data") {
        causes.needed(&Path::root("data"), "data is mandatory");
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    check::immutable(new.get("data"), old.get("data"), &Path::root("data"), causes);
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let owner = object.metadata().and_then(|meta| meta.maps("ownerReferences").find(|owner| owner.flag("controller")));
    let owner = owner.map(|owner| {
        let group = owner.text("apiVersion").split_once('/').map_or("", |(group, _)| group);
        let kind = crate::status::qualified(owner.text("kind"), group).to_lowercase();
        format!("{kind}/{}", owner.text("name"))
    });
    vec![
        object.name().into(),
        owner.unwrap_or_else(|| "<none>".into()).into(),
        object.int("revision").unwrap_or(0).into(),
        print::age(object, clock),
    ]
}
