//! Priority levels: how many requests of a kind may run at once and how the others wait.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Clock, Generation, Kind, keep_all_but_status, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "flowcontrol.v1.PriorityLevelConfiguration"),
        prepare_update: keep_status,
        prepare_status_update: keep_all_but_status,
        status_keeps: &["spec", "metadata"],
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(columns),
        generation: Generation::Spec,
        ..Kind::plain("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    if (object.name() == "exempt") != (spec.text("type") == "Exempt") && matches!(spec.text("type"), "Exempt" | "Limited") {
        causes.bad(&SPEC.field("type"), spec.text("type"), "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match spec.text("type") {
        "Exempt" => {
            if spec.has("limited") {
                causes.refused(&SPEC.field("limited"), "must be nil if the type is not Limited");
            }
        }
        "Limited" => {
            if spec.has("exempt") {
                causes.refused(&SPEC.field("exempt"), "must be nil if the type is Limited");
            }
            let at = SPEC.field("limited");
            let Some(limited) = spec.object("limited") else {
                causes.needed(&at, "must not be empty when type is Limited");
                return;
            };
            if let Some(shares) = limited.int("nominalConcurrencyShares").filter(|shares| *shares < 0) {
                causes.bad(&at.field("nominalConcurrencyShares"), shares, "must be a non-negative integer");
            }
            let lent = limited.int("lendablePercent").filter(|percent| !(0..=100).contains(percent));
            let lent = lent.map(|percent| (at.field("lendablePercent"), percent));
            let (response, at) = (limited.map("limitResponse"), at.field("limitResponse"));
            match (response.text("type"), response.object("queuing")) {
                ("Reject", Some(_)) => causes.refused(&at.field("queuing"), "must be nil if limited.limitResponse.type is not Limited"),
                ("Reject", None) => {}
                ("Queue", None) => causes.needed(&at.field("queuing"), "must not be empty if limited.limitResponse.type is Limited"),
                ("Queue", Some(queuing)) => {
                    let place = at.field("queuing");
                    for field in ["queueLengthLimit", "queues", "handSize"] {
                        let number = queuing.int(field).unwrap_or(0);
                        if number <= 0 {
                            causes.bad(&place.field(field), number, "must be positive");
                        }
                    }
                    let (hand, queues) = (queuing.int("handSize").unwrap_or(0), queuing.int("queues").unwrap_or(0));
                    if hand > queues {
                        causes.bad(&place.field("handSize"), hand, &format!("should not be greater than queues ({queues})"));
                    }
                }
                ("", _) => causes.needed(&at.field("type"), ""),
                (other, _) => causes.unsupported(&at.field("type"), other, &["Queue", "Reject"]),
            }
            if let Some((place, percent)) = lent {
                causes.bad(&place, percent, "must be between 0 and 100, inclusive");
            }
        }
        "" => causes.needed(&SPEC.field("type"), ""),
        other => causes.unsupported(&SPEC.field("type"), other, &["Exempt", "Limited"]),
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let spec = object.map("spec");
    let level = spec.object("limited").unwrap_or_else(|| spec.map("exempt"));
    let queuing = level.map("limitResponse").object("queuing");
    let shown = |number: Option<i64>| number.map_or_else(|| Value::from("<none>"), Value::from);
    let queue = |field: &str| shown(queuing.and_then(|queuing| queuing.int(field)));
    vec![
        object.name().into(),
        spec.text("type").into(),
        shown(level.int("nominalConcurrencyShares")),
        queue("queues"),
        queue("handSize"),
        queue("queueLengthLimit"),
        print::age(object, clock),
    ]
}
