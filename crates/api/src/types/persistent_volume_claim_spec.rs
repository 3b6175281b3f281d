//! `core.v1.PersistentVolumeClaimSpec`: what a claim asks for.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::names;
use crate::path::Path;
use crate::read::{Read, Write};
use crate::types::Rules;

/// Access modes in sorted order.
pub const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.PersistentVolumeClaimSpec") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("volumeMode", "Filesystem");
}

/// The mode for a single pod goes with no other known mode.
pub fn validate_once_pod(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let mut known = spec.texts("accessModes").filter(|mode| ACCESS_MODES.contains(mode));
    let once_pod = spec.texts("accessModes").any(|mode| mode == "ReadWriteOncePod");
    if once_pod && known.any(|mode| mode != "ReadWriteOncePod") {
        causes.refused(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Validates the spec of a claim or of a claim template.
pub fn validate(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let modes = path.field("accessModes");
    if spec.list("accessModes").is_empty() {
        causes.needed(&modes, "at least 1 access mode is required");
    }
    if let Some(selector) = spec.object("selector") {
        check::label_selector(selector, &path.field("selector"), causes);
    }
    for mode in spec.texts("accessModes") {
        if !ACCESS_MODES.contains(&mode) {
            causes.unsupported(&modes, mode, &ACCESS_MODES);
        }
    }
    validate_once_pod(spec, &modes, causes);
    let resources = path.field("resources");
    match spec.map("resources").map("requests").quantity("storage") {
        None => causes.needed(&resources.key("storage"), ""),
        Some(amount) => {
            let at = resources.key("storage");
            if amount.is_negative() {
                causes.bad(&at, amount.value(), "must be a valid resource quantity");
            }
            if amount.is_negative() || amount.is_zero() {
                causes.bad(&at, amount.to_string(), "must be greater than zero");
            }
        }
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        causes.each(&path.field("storageClassName"), class, names::subdomain_errors(class));
    }
    let class = spec.text("volumeAttributesClassName");
    if !class.is_empty() {
        causes.each(&path.field("volumeAttributesClassName"), class, names::subdomain_errors(class));
    }
    causes.one_of(spec, "volumeMode", path, &["Block", "Filesystem"]);
    for field in ["dataSource", "dataSourceRef"] {
        if let Some(source) = spec.object(field) {
            let at = path.field(field);
            causes.need_text(source, "name", &at);
            causes.need_text(source, "kind", &at);
            let group = source.text("apiGroup");
            if group.is_empty() && source.text("kind") != "PersistentVolumeClaim" && !source.text("kind").is_empty() {
                causes.bad(&at, source.text("kind"), "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
            }
        }
    }
}
