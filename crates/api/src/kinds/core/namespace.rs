//! Namespaces: born active with the finalizer that lets the namespace controller empty them first.

use serde_json::{Map, Value, json};

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Clock, Kind, NameRule, Selectable, keep, keep_spec};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::Rules;

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        name: NameRule::Label,
        prepare_create,
        prepare_update: |new, old| {
            keep(new, old, "status");
            keep(new, old, "spec");
        },
        prepare_status_update: keep_spec,
        validate,
        validate_status_update,
        selectable: &[Selectable { field: "status.phase", value: |namespace| namespace.text_at(&["status", "phase"]).into() }],
        columns: Some(columns),
        ..Kind::plain("", "Namespace")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.Namespace") }
}

fn default(namespace: &mut Map<String, Value>) {
    let name = namespace.map("metadata").text("name").to_owned();
    if !name.is_empty() {
        namespace.object_made("metadata").object_made("labels").insert(NAME_LABEL.into(), name.into());
    }
    namespace.object_made("status").default_text("phase", "Active");
}

fn prepare_create(namespace: &mut Object) {
    // A generated name was not known when defaults were filled.
    default(&mut namespace.0);
    namespace.0.insert("status".into(), json!({"phase": "Active"}));
    let spec = namespace.map_at_mut(&["spec"]);
    if !spec.texts("finalizers").any(|one| one == "kubernetes") {
        let mut finalizers = spec.list("finalizers").to_vec();
        finalizers.push("kubernetes".into());
        spec.insert("finalizers".into(), finalizers.into());
    }
}

fn validate(namespace: &Object, causes: &mut Causes) {
    let spec = Path::root("spec");
    let at = spec.field("finalizers");
    for finalizer in namespace.map("spec").texts("finalizers") {
        causes.each(&at, finalizer, names::qualified_name_errors(finalizer));
        if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
            causes.bad(&at, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

fn validate_status_update(new: &Object, _old: &Object, causes: &mut Causes) {
    let phase = new.map("status").text("phase");
    match new.deletion_timestamp() {
        None if phase != "Active" => causes.invalid("status.Phase", &phase.into(), "may only be 'Active' if `deletionTimestamp` is empty"),
        Some(_) if phase != "Terminating" => {
            causes.invalid("status.Phase", &phase.into(), "may only be 'Terminating' if `deletionTimestamp` is not empty");
        }
        _ => {}
    }
}

fn columns(namespace: &Object, clock: &Clock) -> Vec<Value> {
    vec![namespace.name().into(), namespace.map("status").text("phase").into(), print::age(namespace, clock)]
}
