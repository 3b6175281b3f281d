//! `core.v1.EndpointPort`: a port of an Endpoints subset.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.EndpointPort") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_text("protocol", "TCP");
}
