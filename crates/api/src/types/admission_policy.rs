//! Admission policies and their bindings, mutating and validating: what they match and with which parameters.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::Clock;
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;
use crate::types::webhook;

/// The path of all that is said here.
pub const SPEC: Path<'static> = Path::root("spec");

/// Validates what both kinds of policies share.
pub fn validate_policy(policy: &Object, causes: &mut Causes) {
    let spec = policy.map("spec");
    causes.one_of(spec, "failurePolicy", &SPEC, &["Fail", "Ignore"]);
    if let Some(kind) = spec.object("paramKind") {
        let at = SPEC.field("paramKind");
        causes.need_text(kind, "apiVersion", &at);
        causes.need_text(kind, "kind", &at);
    }
    match spec.object("matchConstraints") {
        None => causes.needed(&SPEC.field("matchConstraints"), ""),
        Some(constraints) => {
            let at = SPEC.field("matchConstraints");
            validate_match(constraints, &at, causes);
            if constraints.list("resourceRules").is_empty() {
                causes.needed(&at.field("resourceRules"), "");
            }
        }
    }
    webhook::validate_conditions(spec, &SPEC.field("matchConditions"), causes);
    let list = SPEC.field("variables");
    for (index, variable) in spec.maps("variables").enumerate() {
        let at = list.index(index);
        if variable.text("name").is_empty() {
            causes.needed(&at.field("name"), "name is not specified");
        } else {
            if !names::c_identifier_errors(variable.text("name")).is_empty() {
                causes.bad(&at.field("name"), variable.text("name"), "must be a valid CEL identifier");
            }
        }
        if variable.text("expression").trim().is_empty() {
            causes.needed(&at.field("expression"), "expression is not specified");
        }
    }
}

fn validate_match(resources: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    causes.one_of(resources, "matchPolicy", path, &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        match resources.object(field) {
            Some(selector) => check::label_selector(selector, &path.field(field), causes),
            None => causes.needed(&path.field(field), ""),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let list = path.field(field);
        for (index, rule) in resources.maps(field).enumerate() {
            webhook::validate_rule(rule, &list.index(index), causes);
        }
    }
}

/// Validates what both kinds of bindings share.
pub fn validate_binding(binding: &Object, causes: &mut Causes) {
    let spec = binding.map("spec");
    if causes.need_text(spec, "policyName", &SPEC) {
        causes.each(&SPEC.field("policyName"), spec.text("policyName"), names::subdomain_errors(spec.text("policyName")));
    }
    if let Some(reference) = spec.object("paramRef") {
        let at = SPEC.field("paramRef");
        match (reference.text("name").is_empty(), reference.object("selector")) {
            (true, None) => causes.needed(&at, "one of name or selector must be specified"),
            (false, Some(selector)) => {
                causes.refused(&at.field("name"), "name and selector are mutually exclusive");
                causes.refused(&at.field("selector"), "name and selector are mutually exclusive");
                check::label_selector(selector, &at.field("selector"), causes);
            }
            (true, Some(selector)) => check::label_selector(selector, &at.field("selector"), causes),
            (false, None) => {}
        }
        causes.need_one_of(reference, "parameterNotFoundAction", &at, &["Deny", "Allow"]);
    }
    if let Some(resources) = spec.object("matchResources") {
        validate_match(resources, &SPEC.field("matchResources"), causes);
    }
}

/// Cells of a policy: `field` holds what it does.
pub fn policy_columns(policy: &Object, field: &str, clock: &Clock) -> Vec<Value> {
    let spec = policy.map("spec");
    let parameters = spec.object("paramKind").map(|kind| format!("{}/{}", kind.text("apiVersion"), kind.text("kind")));
    vec![
        policy.name().into(),
        spec.list(field).len().into(),
        parameters.unwrap_or_else(|| "<unset>".into()).into(),
        print::age(policy, clock),
    ]
}

/// A selector as the real server's struct prints itself.
fn printed_selector(selector: &Map<String, Value>) -> String {
    let labels: String =
        selector.map("matchLabels").iter().map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or(""))).collect();
    let one = |expression: &Map<String, Value>| {
        let values: Vec<&str> = expression.texts("values").collect();
        format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},",
            expression.text("key"),
            expression.text("operator"),
            values.join(" ")
        )
    };
    let expressions: String = selector.maps("matchExpressions").map(one).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
}

/// Cells of a binding.
pub fn binding_columns(binding: &Object, clock: &Clock) -> Vec<Value> {
    let spec = binding.map("spec");
    let parameters = spec.object("paramRef").map(|one| match (one.object("selector"), one.text("namespace"), one.text("name")) {
        (Some(selector), _, _) => printed_selector(selector),
        (None, "", name) => format!("*/{name}"),
        (None, namespace, name) => format!("{namespace}/{name}"),
    });
    vec![
        binding.name().into(),
        spec.text("policyName").into(),
        parameters.unwrap_or_else(|| "<unset>".into()).into(),
        print::age(binding, clock),
    ]
}
