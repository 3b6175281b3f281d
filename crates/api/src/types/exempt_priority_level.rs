//! `flowcontrol.v1.ExemptPriorityLevelConfiguration`: a priority level without limits.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("flowcontrol.v1.ExemptPriorityLevelConfiguration") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("nominalConcurrencyShares", 0);
    map.default("lendablePercent", 0);
}
