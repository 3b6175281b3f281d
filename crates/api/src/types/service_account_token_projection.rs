//! `core.v1.ServiceAccountTokenProjection`: a token that the kubelet renews.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.ServiceAccountTokenProjection") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("expirationSeconds", 3600);
}
