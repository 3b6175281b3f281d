//! `flowcontrol.v1.QueuingConfiguration`: queues of a priority level.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("flowcontrol.v1.QueuingConfiguration") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_number("queues", 64);
    map.default_number("handSize", 8);
    map.default_number("queueLengthLimit", 50);
}
