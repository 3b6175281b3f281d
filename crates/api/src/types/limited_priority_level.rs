//! `flowcontrol.v1.LimitedPriorityLevelConfiguration`: a priority level with a share of the seats.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("flowcontrol.v1.LimitedPriorityLevelConfiguration") }
}

fn default(map: &mut Map<String, Value>) {
    map.default("nominalConcurrencyShares", 30);
    map.default("lendablePercent", 0);
}
