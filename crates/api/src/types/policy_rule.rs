//! `rbac.v1.PolicyRule`: what a role allows.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::path::Path;
use crate::read::Read;

/// Validates the rules of a role; a namespaced one cannot speak of paths.
pub fn validate_all(rules: &[Value], namespaced: bool, path: &Path, causes: &mut Causes) {
    for (index, rule) in rules.iter().map(crate::read::as_map).enumerate() {
        validate(rule, namespaced, &path.index(index), causes);
    }
}

fn validate(rule: &Map<String, Value>, namespaced: bool, path: &Path, causes: &mut Causes) {
    let is_empty = |field: &str| rule.list(field).is_empty();
    if is_empty("verbs") {
        causes.needed(&path.field("verbs"), "verbs must contain at least one value");
    }
    if !is_empty("nonResourceURLs") {
        let urls = || rule["nonResourceURLs"].clone();
        if namespaced {
            causes.bad(&path.field("nonResourceURLs"), urls(), "namespaced rules cannot apply to non-resource URLs");
        }
        if !is_empty("apiGroups") || !is_empty("resources") || !is_empty("resourceNames") {
            causes.bad(&path.field("nonResourceURLs"), urls(), "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if is_empty("apiGroups") {
        causes.needed(&path.field("apiGroups"), "resource rules must supply at least one api group");
    }
    if is_empty("resources") {
        causes.needed(&path.field("resources"), "resource rules must supply at least one resource");
    }
}
