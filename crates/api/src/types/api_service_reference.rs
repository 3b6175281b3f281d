//! `apiregistration.v1.ServiceReference`: the Service behind an aggregated API.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("kube-aggregator.apiregistration.v1.ServiceReference") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("port", 443);
}
