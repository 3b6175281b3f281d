//! `core.v1.Probe`: timings of a probe.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.Probe") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_number("timeoutSeconds", 1);
    map.default_number("periodSeconds", 10);
    map.default_number("successThreshold", 1);
    map.default_number("failureThreshold", 3);
}
