//! `discovery.v1.EndpointPort`: a port of an EndpointSlice.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("discovery.v1.EndpointPort") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("name", "");
    map.default("protocol", "TCP");
}
