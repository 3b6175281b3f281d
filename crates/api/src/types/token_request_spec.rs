//! `authentication.v1.TokenRequestSpec`: a request for a service account token.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("authentication.v1.TokenRequestSpec") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("expirationSeconds", 3600);
}
