//! `core.v1.HostPathVolumeSource`: a path of the node.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.HostPathVolumeSource") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("type", "");
}
