//! `flowcontrol.v1.FlowSchemaSpec`: which requests go to a priority level.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("flowcontrol.v1.FlowSchemaSpec") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_number("matchingPrecedence", 1000);
}
