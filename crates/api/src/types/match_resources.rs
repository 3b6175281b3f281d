//! `admissionregistration.v1.MatchResources`: what an admission policy matches.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("admissionregistration.v1.MatchResources") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("matchPolicy", "Equivalent");
    map.default("namespaceSelector", Map::new());
    map.default("objectSelector", Map::new());
}
