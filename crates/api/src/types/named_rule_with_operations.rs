//! `admissionregistration.v1.NamedRuleWithOperations`: what an admission policy looks at.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("admissionregistration.v1.NamedRuleWithOperations") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("scope", "*");
}
