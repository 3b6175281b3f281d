//! Limit ranges: bounds that fit together.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::Kind;
use crate::object::Object;
use crate::path::Path;
use crate::quantity::Quantity;
use crate::read::Read;
use crate::types::resources;

/// The kind.
pub const fn kind() -> Kind {
    Kind { validate, validate_update: |new, _old, causes| validate(new, causes), ..Kind::plain("", "LimitRange") }
}

fn validate(range: &Object, causes: &mut Causes) {
    let spec = Path::root("spec");
    let list = spec.field("limits");
    let mut seen: Vec<&str> = Vec::new();
    for (index, limit) in range.map("spec").maps("limits").enumerate() {
        let at = list.index(index);
        let kind = limit.text("type");
        let errors = crate::names::qualified_name_errors(kind);
        let qualified = errors.is_empty();
        causes.each(&at.field("type"), kind, errors);
        if qualified && !kind.is_empty() && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") && !kind.contains('/') {
            causes.bad(&at.field("type"), kind, "must be a standard limit type or fully qualified");
        }
        if seen.contains(&kind) {
            causes.twice(&at.field("type"), kind);
        }
        seen.push(kind);
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if limit.map(field).is_empty() {
                    continue;
                }
                causes.refused(&at.field(field), "may not be specified when `type` is 'Pod'");
            }
        }
        if kind == "PersistentVolumeClaim" && !["min", "max"].iter().any(|field| limit.map(field).contains_key("storage")) {
            causes.needed(&at.field("limits"), "either minimum or maximum storage value is required, but neither was provided");
        }
        let mut names: Vec<&String> =
            ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"].iter().flat_map(|field| limit.map(field).keys()).collect();
        names.sort();
        names.dedup();
        for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            let place = at.field(field);
            for name in limit.map(field).keys() {
                match kind {
                    "Pod" | "Container" => resources::validate_name(name, &place.key(name), causes),
                    _ => resources::validate_any_name(name, &place.key(name), causes),
                }
            }
        }
        for name in names {
            let get = |field: &str| limit.map(field).quantity(name);
            let mut ordered = |low: &str, high: &str, path_field: &str, text: &str| {
                let minimum = low == "min";
                if let (Some(low), Some(high)) = (get(low), get(high))
                    && low > high
                {
                    let text = text.replace("{low}", &low.to_string()).replace("{high}", &high.to_string());
                    causes.bad(&at.field(path_field).key(name), shown(path_field, minimum, low, high), &text);
                }
            };
            ordered("min", "max", "min", "min value {low} is greater than max value {high}");
            if kind == "Container" {
                ordered("min", "defaultRequest", "defaultRequest", "min value {low} is greater than default request value {high}");
                ordered("defaultRequest", "max", "defaultRequest", "default request value {low} is greater than max value {high}");
                ordered(
                    "defaultRequest",
                    "default",
                    "defaultRequest",
                    "default request value {low} is greater than default limit value {high}",
                );
                ordered("min", "default", "default", "min value {low} is greater than default value {high}");
                ordered("default", "max", "default", "default value {low} is greater than max value {high}");
            }
            if let Some(ratio) = get("maxLimitRequestRatio")
                && ratio < Quantity::from_milli(1000)
            {
                causes.bad(&at.field("maxLimitRequestRatio").key(name), ratio.to_string(), &format!("ratio {ratio} is less than 1"));
            }
        }
    }
}

/// The value that is blamed: the lower one, but the default request if it is below the minimum.
fn shown(path_field: &str, low_is_minimum: bool, low: Quantity, high: Quantity) -> Value {
    let high_is_blamed = path_field == "defaultRequest" && low_is_minimum;
    if high_is_blamed { high.to_string().into() } else { low.to_string().into() }
}
