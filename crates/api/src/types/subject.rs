//! `rbac.v1.Subject`: who a binding names.

use serde_json::{Map, Value};

use crate::read::{Read, Write};
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("rbac.v1.Subject") }
}

fn default(map: &mut Map<String, Value>) {
    if matches!(map.text("kind"), "User" | "Group") {
        map.default_text("apiGroup", "rbac.authorization.k8s.io");
    }
}
