//! `networking.v1.NetworkPolicyPort`: a port that a policy opens.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("networking.v1.NetworkPolicyPort") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("protocol", "TCP");
}
