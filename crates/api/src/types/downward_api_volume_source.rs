//! `core.v1.DownwardAPIVolumeSource`: files from fields of the pod.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.DownwardAPIVolumeSource") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("defaultMode", 0o644);
}
