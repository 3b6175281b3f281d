//! `apiextensions.v1.ServiceReference`: the Service behind a conversion webhook.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("apiextensions-apiserver.apiextensions.v1.ServiceReference") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("port", 443);
}
