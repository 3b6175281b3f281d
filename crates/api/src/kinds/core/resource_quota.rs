//! Resource quotas.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Clock, Kind, keep_spec, keep_status, reset_status_of};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::quantity::Quantity;
use crate::read::Read;
use crate::types::resources;

const SPEC: Path<'static> = Path::root("spec");
const SCOPES: [&str; 7] =
    ["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating", "VolumeAttributesClass"];

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |quota| reset_status_of(quota, "core.v1.ResourceQuota"),
        prepare_update: keep_status,
        prepare_status_update: keep_spec,
        validate,
        validate_update,
        columns: Some(columns),
        ..Kind::plain("", "ResourceQuota")
    }
}

fn validate(quota: &Object, causes: &mut Causes) {
    let spec = quota.map("spec");
    let hard = SPEC.field("hard");
    for (name, value) in spec.map("hard") {
        let at = hard.key(name);
        causes.each(&at, name, names::qualified_name_errors(name));
        if !name.contains('/') && !resources::is_standard(name) {
            if names::is_qualified_name(name) {
                causes.bad(&at, name.as_str(), "must be a standard resource type or fully qualified");
            }
            causes.bad(&at, name.as_str(), "must be a standard resource for quota");
        }
        resources::validate_amount(name, Quantity::from_json(value).unwrap_or_default(), &at, causes);
    }
    let scopes = SPEC.field("scopes");
    for scope in spec.texts("scopes") {
        let fits = |name: &String| name == "pods" || name == "count/pods" || (scope != "BestEffort" && is_compute(name));
        if SCOPES.contains(&scope) && scope != "VolumeAttributesClass" && !spec.map("hard").keys().all(fits) {
            causes.bad(&scopes, spec["scopes"].clone(), "unsupported scope applied to resource");
        }
        if !SCOPES.contains(&scope) {
            causes.bad(&scopes, spec["scopes"].clone(), "unsupported scope");
        }
    }
    validate_scope_selector(spec, causes);
    let has = |scope: &str| spec.texts("scopes").any(|one| one == scope);
    if (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating")) {
        causes.bad(&scopes, spec["scopes"].clone(), "conflicting scopes");
    }
}

fn validate_scope_selector(spec: &Map<String, Value>, causes: &mut Causes) {
    let path = SPEC.field("scopeSelector");
    let at = path.field("matchExpressions");
    for one in spec.map("scopeSelector").maps("matchExpressions") {
        let (scope, operator) = (one.text("scopeName"), one.text("operator"));
        if !SCOPES.contains(&scope) {
            causes.bad(&at.field("scopeName"), scope, "unsupported scope");
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope) && operator != "Exists" {
            causes.bad(&at.field("operator"), operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity");
        }
        match operator {
            "In" | "NotIn" if one.list("values").is_empty() => {
                causes.needed(&at.field("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector");
            }
            "Exists" | "DoesNotExist" if !one.list("values").is_empty() => {
                causes.bad(
                    &at.field("values"),
                    one["values"].clone(),
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.bad(&at.field("operator"), other, "not a valid selector operator"),
        }
    }
}

fn is_compute(name: &str) -> bool {
    let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    matches!(bare, "cpu" | "memory" | "ephemeral-storage")
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    let set = |quota: &Object| {
        let mut scopes: Vec<String> = quota.map("spec").texts("scopes").map(str::to_owned).collect();
        scopes.sort();
        scopes
    };
    if set(new) != set(old) {
        let value = new.map("spec").get("scopes").cloned().unwrap_or(Value::Null);
        causes.bad(&SPEC.field("scopes"), value, crate::check::IMMUTABLE);
    }
}

fn columns(quota: &Object, clock: &Clock) -> Vec<Value> {
    let status = quota.map("status");
    let list = |limits: bool| {
        let hard = status.map("hard").iter().filter(|(name, _)| name.starts_with("limits") == limits);
        hard.map(|(name, hard)| amount(name, status.map("used"), hard)).collect::<Vec<_>>().join(", ")
    };
    vec![quota.name().into(), list(false).into(), list(true).into(), print::age(quota, clock)]
}

fn amount(name: &str, used: &Map<String, Value>, hard: &Value) -> String {
    let used = used.quantity(name).unwrap_or_default();
    format!("{name}: {used}/{}", Quantity::from_json(hard).unwrap_or_default())
}
