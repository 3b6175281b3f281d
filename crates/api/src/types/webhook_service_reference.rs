//! `admissionregistration.v1.ServiceReference`: the Service behind an admission webhook.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("admissionregistration.v1.ServiceReference") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("port", 443);
}
