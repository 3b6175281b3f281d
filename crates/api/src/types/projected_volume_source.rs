//! `core.v1.ProjectedVolumeSource`: files from several sources.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.ProjectedVolumeSource") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("defaultMode", 0o644);
}
