//! Pod disruption budgets.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind, keep_spec, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "policy.v1.PodDisruptionBudget"),
        prepare_update: keep_status,
        prepare_status_update: keep_spec,
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(columns),
        generation: Generation::Spec,
        ..Kind::plain("policy", "PodDisruptionBudget")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        causes.bad_struct(
            &SPEC,
            "policy.PodDisruptionBudgetSpec",
            &Value::Object(spec.clone()),
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if let Some(value) = spec.some(field) {
            check::int_or_percent(value, &SPEC.field(field), causes);
            check::at_most_hundred_percent(value, &SPEC.field(field), causes);
        }
    }
    if let Some(selector) = spec.object("selector") {
        check::label_selector(selector, &SPEC.field("selector"), causes);
    }
    causes.one_of(spec, "unhealthyPodEvictionPolicy", &SPEC, &["AlwaysAllow", "IfHealthyBudget"]);
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let shown = |field: &str| match object.map("spec").some(field) {
        Some(Value::String(text)) => text.as_str().into(),
        Some(number) => number.to_string().into(),
        None => Value::from("N/A"),
    };
    vec![
        object.name().into(),
        shown("minAvailable"),
        shown("maxUnavailable"),
        object.map("status").int("disruptionsAllowed").unwrap_or(0).into(),
        print::age(object, clock),
    ]
}
