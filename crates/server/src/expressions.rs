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

fn fault(path: &str, text: &str, message: &str, causes: &mut Causes) {
    causes.invalid(path, &Value::from(text), message);
}

fn policy(object: &Object, causes: &mut Causes) {
    let Some(spec) = object.get("spec") else { return };
    for one in cel::policy::Policy::compile(spec).err().into_iter().flatten() {
        fault(&one.path, &one.text, &one.message, causes);
    }
}

fn webhooks(object: &Object, causes: &mut Causes) {
    for (index, hook) in object.get("webhooks").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let path = format!("webhooks[{index}].matchConditions");
        for one in cel::policy::Conditions::compile(&hook["matchConditions"], &path).err().into_iter().flatten() {
            fault(&one.path, &one.text, &one.message, causes);
        }
    }
}

/// Versions with one schema in common are told of by the place that it once had.
fn definition(object: &Object, causes: &mut Causes) {
    let versions = object.at(&["spec", "versions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let schemas: Vec<&Value> = versions.iter().map(|version| &version["schema"]["openAPIV3Schema"]).collect();
    let shared = schemas.windows(2).all(|pair| pair[0] == pair[1]);
    for (index, schema) in schemas.into_iter().enumerate().filter(|(index, _)| !shared || *index == 0) {
        // Rules are compiled for structural schemas only; one that says nothing is refused for that.
        if !schema.as_object().is_some_and(api::kinds::apiextensions::structural_schema::is_structural) {
            continue;
        }
        let path =
            if shared { "spec.validation.openAPIV3Schema".to_owned() } else { format!("spec.versions[{index}].schema.openAPIV3Schema") };
        for one in cel::rules::check(schema, &path).into_iter().filter(|one| !one.text.trim().is_empty()) {
            fault(&one.path, &one.text, &one.message, causes);
        }
    }
}
