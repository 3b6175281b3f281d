//! `core.v1.LimitRangeItem`: limits of one type; for containers the maximum is the default limit and so on.

use serde_json::{Map, Value};

use crate::read::{Read, Write};
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.LimitRangeItem") }
}

fn default(map: &mut Map<String, Value>) {
    if map.text("type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let source = map.map(from).clone();
        let target = map.object_made(to);
        for (resource, amount) in source {
            target.entry(resource).or_insert(amount);
        }
    }
}
