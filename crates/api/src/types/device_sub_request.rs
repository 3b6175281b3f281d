//! `resource.v1.DeviceSubRequest`: an alternative of a request for devices.

use serde_json::{Map, Value};

use crate::read::{Read, Write};
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("resource.v1.DeviceSubRequest") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_text("allocationMode", "ExactCount");
    if map.text("allocationMode") == "ExactCount" {
        map.default_number("count", 1);
    }
}
