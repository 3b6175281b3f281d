//! `core.v1.ObjectFieldSelector`: a field of the pod as a value.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.ObjectFieldSelector") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_text("apiVersion", "v1");
}
