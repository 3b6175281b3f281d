//! `core.v1.HTTPGetAction`: where an HTTP probe or hook calls.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.HTTPGetAction") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_text("path", "/");
    map.default_text("scheme", "HTTP");
}
