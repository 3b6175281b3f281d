//! CEL expressions inside objects, checked when they are written: policies, match conditions, custom resource rules.

use api::{Causes, Object};
use serde_json::Value;

/// Checks all expressions of an object, if its kind has any.
pub fn check(object: &Object, causes: &mut Causes) {
    match object.kind() {
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => policy(object, causes),
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => webhooks(object, causes),
        "CustomResourceDefinition" => definition(object, causes),
        _ => {}
    }
}

fn expression(value: &Value, path: &str, causes: &mut Causes) {
    let Some(text) = value.as_str().filter(|text| !text.trim().is_empty()) else { return };
    if let Err(error) = cel::check_syntax(text) {
        causes.invalid(path, value, &format!("compilation failed: {error}"));
    }
}

fn each(list: &Value, field: &str, path: &str, causes: &mut Causes) {
    for (index, one) in list.as_array().into_iter().flatten().enumerate() {
        expression(&one[field], &format!("{path}[{index}].{field}"), causes);
    }
}

fn policy(object: &Object, causes: &mut Causes) {
    let Some(spec) = object.get("spec") else { return };
    each(&spec["validations"], "expression", "spec.validations", causes);
    each(&spec["validations"], "messageExpression", "spec.validations", causes);
    each(&spec["matchConditions"], "expression", "spec.matchConditions", causes);
    each(&spec["variables"], "expression", "spec.variables", causes);
    each(&spec["auditAnnotations"], "valueExpression", "spec.auditAnnotations", causes);
    for (index, mutation) in spec["mutations"].as_array().into_iter().flatten().enumerate() {
        for field in ["applyConfiguration", "jsonPatch"] {
            expression(&mutation[field]["expression"], &format!("spec.mutations[{index}].{field}.expression"), causes);
        }
    }
}

fn webhooks(object: &Object, causes: &mut Causes) {
    for (index, hook) in object.get("webhooks").and_then(Value::as_array).into_iter().flatten().enumerate() {
        each(&hook["matchConditions"], "expression", &format!("webhooks[{index}].matchConditions"), causes);
    }
}

fn definition(object: &Object, causes: &mut Causes) {
    for (index, version) in object.at(&["spec", "versions"]).and_then(Value::as_array).into_iter().flatten().enumerate() {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        schema(&version["schema"]["openAPIV3Schema"], &path, causes);
    }
}

fn schema(node: &Value, path: &str, causes: &mut Causes) {
    let rules = &node["x-kubernetes-validations"];
    let at = format!("{path}.x-kubernetes-validations");
    each(rules, "rule", &at, causes);
    each(rules, "messageExpression", &at, causes);
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        schema(child, &format!("{path}.properties[{name}]"), causes);
    }
    for field in ["items", "additionalProperties"] {
        if node[field].is_object() {
            schema(&node[field], &format!("{path}.{field}"), causes);
        }
    }
}
