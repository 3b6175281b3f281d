//! Priority classes.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::Rules;

const HIGHEST_OF_USERS: i64 = 1_000_000_000;
/// The classes that the system brings along, with their values.
const SYSTEM: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update,
        columns: Some(columns),
        generation: Generation::Spec,
        ..Kind::plain("scheduling.k8s.io", "PriorityClass")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules {
        default: |map: &mut Map<String, Value>| map.default("preemptionPolicy", "PreemptLowerPriority"),
        ..Rules::of("scheduling.v1.PriorityClass")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let value = object.int("value").unwrap_or(0);
    if object.name().starts_with("system-") {
        if !SYSTEM.contains(&(object.name(), value)) {
            let text = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {} is not a known system priority class",
                object.name()
            );
            causes.forbidden("metadata.name", &text);
        }
    } else if value > HIGHEST_OF_USERS {
        causes.forbidden("value", &format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}"));
    }
    causes.one_of(&object.0, "preemptionPolicy", &Path::root(""), &["PreemptLowerPriority", "Never"]);
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    if new.int("value") != old.int("value") {
        causes.forbidden("value", "may not be changed in an update.");
    }
    check::immutable(new.get("preemptionPolicy"), old.get("preemptionPolicy"), &Path::root("preemptionPolicy"), causes);
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    vec![
        object.name().into(),
        object.int("value").unwrap_or(0).into(),
        object.flag("globalDefault").into(),
        print::age(object, clock),
        print::or(object.text("preemptionPolicy"), "PreemptLowerPriority"),
    ]
}
