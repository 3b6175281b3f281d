//! Flow schemas: which requests belong to which priority level.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Clock, Generation, Kind, keep_all_but_status, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "flowcontrol.v1.FlowSchema"),
        prepare_update: keep_status,
        prepare_status_update: keep_all_but_status,
        status_keeps: &["spec", "metadata"],
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(columns),
        generation: Generation::Spec,
        ..Kind::plain("flowcontrol.apiserver.k8s.io", "FlowSchema")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    let (precedence, at) = (spec.int("matchingPrecedence").unwrap_or(0), SPEC.field("matchingPrecedence"));
    if precedence <= 0 {
        causes.bad(&at, precedence, "must be a positive value");
    }
    if precedence > 10_000 {
        causes.bad(&at, precedence, "must not be greater than 10000");
    }
    if precedence == 1 && object.name() != "exempt" {
        causes.bad(&at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if spec.has("distinguisherMethod") {
        let method = spec.map("distinguisherMethod");
        if !matches!(method.text("type"), "ByNamespace" | "ByUser") {
            let at = SPEC.field("distinguisherMethod");
            // The value is the whole method, as Go's JSON of it is.
            let shown = serde_json::json!({"Type": method.text("type")});
            causes.unsupported_value(&at.field("type"), &shown, &["ByNamespace", "ByUser"]);
        }
    }
    let level = SPEC.field("priorityLevelConfiguration");
    let name = spec.map("priorityLevelConfiguration").text("name");
    if name.is_empty() {
        causes.needed(&level.field("name"), "must reference a priority level");
    } else {
        causes.each(&level.field("name"), name, crate::names::subdomain_errors(name));
    }
    let list = SPEC.field("rules");
    for (index, rule) in spec.maps("rules").enumerate() {
        validate_rule(rule, &list.index(index), causes);
    }
}

fn validate_rule(rule: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let subjects = path.field("subjects");
    if rule.list("subjects").is_empty() {
        causes.needed(&subjects, "subjects must contain at least one value");
    }
    for (index, subject) in rule.maps("subjects").enumerate() {
        let at = subjects.index(index);
        let field = match subject.text("kind") {
            "User" => "user",
            "Group" => "group",
            "ServiceAccount" => "serviceAccount",
            other => {
                causes.unsupported(&at.field("kind"), other, &["Group", "ServiceAccount", "User"]);
                continue;
            }
        };
        match subject.object(field) {
            Some(one) => {
                let place = at.field(field);
                if causes.need_text(one, "name", &place) && field == "serviceAccount" && one.text("name") != "*" {
                    causes.each(&place.field("name"), one.text("name"), crate::names::subdomain_errors(one.text("name")));
                }
                if field == "serviceAccount" {
                    match one.text("namespace") {
                        "" => causes.needed(&place.field("namespace"), "must specify namespace for service account"),
                        namespace => causes.each(&place.field("namespace"), namespace, crate::names::label_errors(namespace)),
                    }
                }
            }
            None => causes.needed(&at.field(field), &format!("{field} is required when subject kind is '{}'", subject.text("kind"))),
        }
    }
    if rule.list("resourceRules").is_empty() && rule.list("nonResourceRules").is_empty() {
        causes.needed(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (field, needed) in
        [("resourceRules", ["verbs", "apiGroups", "resources"].as_slice()), ("nonResourceRules", &["verbs", "nonResourceURLs"])]
    {
        let list = path.field(field);
        for (index, one) in rule.maps(field).enumerate() {
            let at = list.index(index);
            for name in needed.iter().filter(|name| one.list(name).is_empty()) {
                let text = match *name {
                    "apiGroups" => "resource rules must supply at least one api group".to_owned(),
                    "resources" => "resource rules must supply at least one resource".to_owned(),
                    name => format!("{name} must contain at least one value"),
                };
                causes.needed(&at.field(name), &text);
            }
            let known = |verb: &str| VERBS.contains(&verb) || verb == "*";
            if !one.texts("verbs").all(known) {
                causes.unsupported_value(&at.field("verbs"), &one["verbs"], &VERBS);
            } else if one.list("verbs").len() > 1 && one.texts("verbs").any(|verb| verb == "*") {
                causes.bad(&at.field("verbs"), one["verbs"].clone(), "if '*' is present, must not specify other verbs");
            }
            if field == "nonResourceRules" {
                validate_urls(one, &at.field("nonResourceURLs"), causes);
            }
            if field == "resourceRules" && one.list("namespaces").is_empty() && !one.flag("clusterScope") {
                causes.needed(&at.field("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace");
            }
        }
    }
}

fn validate_urls(rule: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    if rule.list("nonResourceURLs").len() > 1 && rule.texts("nonResourceURLs").any(|url| url == "*") {
        causes.bad(path, rule["nonResourceURLs"].clone(), "if '*' is present, must not specify other non-resource URLs");
        return;
    }
    for (index, url) in rule.texts("nonResourceURLs").enumerate().filter(|(_, url)| *url != "*") {
        let at = path.index(index);
        if url.is_empty() {
            causes.bad(&at, url, "must not be empty");
        } else if !url.starts_with('/') {
            causes.bad(&at, url, "must start with slash");
        } else if url.contains(' ') {
            causes.bad(&at, url, "must not contain white-space");
        }
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let spec = object.map("spec");
    let dangling = object.map("status").maps("conditions").find(|one| one.text("type") == "Dangling");
    vec![
        object.name().into(),
        spec.map("priorityLevelConfiguration").text("name").into(),
        spec.int("matchingPrecedence").unwrap_or(0).into(),
        print::or_none(spec.map("distinguisherMethod").text("type")),
        print::age(object, clock),
        dangling.map_or("?", |one| one.text("status")).into(),
    ]
}
