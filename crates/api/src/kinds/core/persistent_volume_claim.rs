//! Persistent volume claims: the spec is fixed, but they may grow.

use serde_json::{Map, Value, json};

use super::persistent_volume::class;
use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Clock, Kind, keep_spec, keep_status};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, persistent_volume_claim_spec, pod_warnings};

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create,
        prepare_update: |new, old| {
            keep_status(new, old);
            drop_foreign_source(new.map_at_mut(&["spec"]));
        },
        prepare_status_update: keep_spec,
        validate: |claim, causes| persistent_volume_claim_spec::validate(claim.map("spec"), &SPEC, causes),
        validate_update,
        columns: Some(columns),
        warnings,
        ..Kind::plain("", "PersistentVolumeClaim")
    }
}

/// Defaults, also of claim templates.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.PersistentVolumeClaim") }
}

fn default(claim: &mut Map<String, Value>) {
    claim.object_made("status").default_text("phase", "Pending");
}

/// Sources in other namespaces are off by default.
fn drop_foreign_source(spec: &mut Map<String, Value>) {
    if spec.object("dataSourceRef").is_some_and(|source| !source.text("namespace").is_empty()) {
        spec.remove("dataSourceRef");
    }
}

fn prepare_create(claim: &mut Object) {
    claim.0.insert("status".into(), json!({"phase": "Pending"}));
    // The two fields for the source are one as long as no other namespace is meant.
    let spec = claim.map_at_mut(&["spec"]);
    let known = spec.object("dataSource").is_none_or(|source| {
        let (group, kind) = (source.text("apiGroup"), source.text("kind"));
        (group, kind) == ("", "PersistentVolumeClaim") || (group, kind) == ("snapshot.storage.k8s.io", "VolumeSnapshot")
    });
    if !known {
        spec.remove("dataSource");
    }
    drop_foreign_source(spec);
    match (spec.object("dataSource").cloned(), spec.object("dataSourceRef").cloned()) {
        (Some(source), None) => drop(spec.insert("dataSourceRef".into(), source.into())),
        (None, Some(source)) if source.text("namespace").is_empty() => drop(spec.insert("dataSource".into(), source.into())),
        _ => {}
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    let (spec, before) = (new.map("spec"), old.map("spec"));
    persistent_volume_claim_spec::validate(spec, &SPEC, causes);
    let mut munged = spec.clone();
    // Binding sets the name of the volume once, and the class once where the claim left it open.
    for field in ["volumeName", "storageClassName"] {
        if before.text(field).is_empty() && !before.has(field) || before.text("volumeName").is_empty() && field == "volumeName" {
            replace(&mut munged, before, field);
        }
    }
    replace(&mut munged, before, "volumeAttributesClassName");
    let storage = |spec: &Map<String, Value>| spec.map("resources").map("requests").quantity("storage").unwrap_or_default();
    let bound = old.map("status").text("phase") == "Bound";
    let (size, old_size) = (storage(spec), storage(before));
    if bound && size != old_size {
        let requests = munged.object_made("resources").object_made("requests");
        requests.insert("storage".into(), old_size.to_string().into());
    }
    if munged != *before {
        let mut changed: Vec<&str> = Vec::new();
        for (field, _) in munged.iter().chain(before.iter()).filter(|(field, _)| munged.get(*field) != before.get(*field)) {
            if !changed.contains(&field.as_str()) {
                changed.push(field);
            }
        }
        let text = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
            changed.join(", ")
        );
        causes.refused(&SPEC, &text);
    }
    let resources = SPEC.field("resources");
    let requests = resources.field("requests");
    let status_size = old.map("status").map("capacity").quantity("storage");
    if size < old_size && status_size.is_none_or(|capacity| size < capacity) {
        causes.refused(&requests.field("storage"), "field can not be less than status.capacity");
    }
}

fn replace(map: &mut Map<String, Value>, from: &Map<String, Value>, field: &str) {
    match from.get(field) {
        Some(value) => map.insert(field.into(), value.clone()),
        None => map.remove(field),
    };
}

fn warnings(claim: &Object) -> Vec<String> {
    const OLD: &str = "volume.beta.kubernetes.io/storage-class";
    let mut warnings = Vec::new();
    if claim.annotation(OLD).is_some() {
        warnings.push(format!("metadata.annotations[{OLD}]: deprecated since v1.8; use \"storageClassName\" attribute instead"));
    }
    let at = SPEC.field("resources");
    let at = at.field("requests");
    pod_warnings::fractional(claim.map("spec").map("resources").map("requests"), "storage", &at.key("storage"), &mut warnings);
    warnings
}

fn columns(claim: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (claim.map("spec"), claim.map("status"));
    let phase = if claim.deletion_timestamp().is_some() { "Terminating" } else { status.text("phase") };
    let bound = !spec.text("volumeName").is_empty();
    let capacity = status.map("capacity").quantity("storage").unwrap_or_default().to_string();
    vec![
        claim.name().into(),
        phase.into(),
        spec.text("volumeName").into(),
        if bound { capacity.into() } else { "".into() },
        if bound { print::access_modes(status).into() } else { "".into() },
        class(claim).into(),
        print::or(spec.text("volumeAttributesClassName"), "<unset>"),
        print::age(claim, clock),
        print::or(spec.text("volumeMode"), "<unset>"),
    ]
}
