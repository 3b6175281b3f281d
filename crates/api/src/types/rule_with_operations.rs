//! `admissionregistration.v1.RuleWithOperations`: what a webhook is called for.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("admissionregistration.v1.RuleWithOperations") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("scope", "*");
}
