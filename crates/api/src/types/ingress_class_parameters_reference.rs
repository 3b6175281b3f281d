//! `networking.v1.IngressClassParametersReference`: parameters of an ingress class.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("networking.v1.IngressClassParametersReference") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("scope", "Cluster");
}
