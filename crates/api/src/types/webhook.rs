//! Admission webhooks, mutating and validating: whom to call for what.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::Clock;
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};

const RESOURCE_SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

/// Defaults that both kinds of webhooks share.
pub fn default(webhook: &mut Map<String, Value>) {
    webhook.default("failurePolicy", "Fail");
    webhook.default("matchPolicy", "Equivalent");
    webhook.default("namespaceSelector", Map::new());
    webhook.default("objectSelector", Map::new());
    webhook.default("timeoutSeconds", 10);
}

/// Validates a configuration of webhooks.
pub fn validate_all(configuration: &Object, causes: &mut Causes) {
    let list = Path::root("webhooks");
    let mut seen: Vec<&str> = Vec::new();
    for (index, webhook) in configuration.maps("webhooks").enumerate() {
        let at = list.index(index);
        validate(webhook, &at, causes);
        if seen.contains(&webhook.text("name")) {
            causes.twice(&at.field("name"), webhook.text("name"));
        }
        seen.push(webhook.text("name"));
    }
}

fn validate(webhook: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let name = webhook.text("name");
    if causes.need_text(webhook, "name", path) {
        causes.each(&path.field("name"), name, names::fully_qualified_name_errors(name));
    }
    let rules = path.field("rules");
    for (index, rule) in webhook.maps("rules").enumerate() {
        validate_rule(rule, &rules.index(index), causes);
    }
    causes.one_of(webhook, "failurePolicy", path, &["Fail", "Ignore"]);
    causes.one_of(webhook, "matchPolicy", path, &["Equivalent", "Exact"]);
    causes.one_of(webhook, "reinvocationPolicy", path, &["IfNeeded", "Never"]);
    if webhook.has("sideEffects") {
        causes.one_of(webhook, "sideEffects", path, &["None", "NoneOnDryRun"]);
    } else {
        causes.needed(&path.field("sideEffects"), "must specify one of None, NoneOnDryRun");
    }
    if let Some(seconds) = webhook.int("timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        causes.bad(&path.field("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(selector) = webhook.object(field) {
            check::label_selector(selector, &path.field(field), causes);
        }
    }
    validate_client(webhook.map("clientConfig"), &path.field("clientConfig"), causes);
    let versions = path.field("admissionReviewVersions");
    if webhook.list("admissionReviewVersions").is_empty() {
        causes.needed(&versions, "must specify one of v1, v1beta1");
    } else if !webhook.texts("admissionReviewVersions").any(|version| matches!(version, "v1" | "v1beta1")) {
        causes.bad(&versions, webhook["admissionReviewVersions"].clone(), "must include at least one of v1, v1beta1");
    }
    for (index, version) in webhook.texts("admissionReviewVersions").enumerate() {
        causes.each(&versions.index(index), version, names::label_1035_errors(version));
    }
    validate_conditions(webhook, &path.field("matchConditions"), causes);
}

/// Validates conditions by name; their expressions are compiled by whoever has the language.
pub fn validate_conditions(owner: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    if owner.list("matchConditions").len() > 64 {
        causes.too_many(&path.text(), owner.list("matchConditions").len(), 64);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, condition) in owner.maps("matchConditions").enumerate() {
        let (at, name) = (path.index(index), condition.text("name"));
        causes.need_text(condition, "expression", &at);
        if causes.need_text(condition, "name", &at) {
            causes.each(&at.field("name"), name, names::qualified_name_errors(name));
        }
        if seen.contains(&name) {
            causes.twice(&at.field("name"), name);
        }
        seen.push(name);
    }
}

/// Validates how a webhook is reached.
pub fn validate_client(client: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    match (client.some("url").and_then(Value::as_str), client.object("service")) {
        (Some(_), Some(_)) | (None, None) => causes.needed(path, "exactly one of url or service is required"),
        (Some(url), None) => {
            let at = path.field("url");
            match url.split_once("://") {
                Some(("https", rest)) if rest.split('/').next().is_some_and(|host| !host.is_empty()) => {
                    if let Some((user, _)) = rest.split('/').next().and_then(|host| host.split_once('@')) {
                        causes.bad(&at, user, "user information is not permitted in the URL");
                    }
                    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
                    if !fragment.is_empty() {
                        causes.bad(&at, fragment, "fragments are not permitted in the URL");
                    }
                    if let Some((_, query)) = rest.split_once('?').filter(|(_, query)| !query.is_empty()) {
                        causes.bad(&at, query, "query parameters are not permitted in the URL");
                    }
                }
                Some(("https", _)) => causes.bad(&at, "", "host must be specified; desired format: https://host[/path]"),
                Some((scheme, _)) => causes.bad(&at, scheme, "'https' is the only allowed URL scheme; desired format: https://host[/path]"),
                None => {
                    causes.bad(&at, "", "host must be specified; desired format: https://host[/path]");
                    causes.bad(&at, "", "'https' is the only allowed URL scheme; desired format: https://host[/path]");
                }
            }
        }
        (None, Some(service)) => {
            let at = path.field("service");
            // The real server blames each of the two for the other.
            for (field, blamed) in [("namespace", "name"), ("name", "namespace")] {
                if service.text(field).is_empty() {
                    causes.needed(&at.field(blamed), "");
                }
            }
            let port = service.int("port").unwrap_or(443);
            for error in check::port_errors(port) {
                causes.bad(&at.field("port"), port, &format!("port is not valid: {error}"));
            }
            validate_path(service.text("path"), &at.field("path"), causes);
        }
    }
}

fn validate_path(text: &str, path: &Path, causes: &mut Causes) {
    if text.is_empty() || text == "/" {
        return;
    }
    if !text.starts_with('/') {
        causes.bad(path, text, "must start with a '/'");
    }
    let inner = text.get(1..).unwrap_or("");
    for (index, segment) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if segment.is_empty() {
            causes.bad(path, text, &format!("segment[{index}] may not be empty"));
            continue;
        }
        for error in names::subdomain_errors(segment) {
            causes.bad(path, text, &format!("segment[{index}] {error}"));
        }
    }
}

/// Validates operations, groups, versions and resources.
pub fn validate_rule(rule: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let operations = path.field("operations");
    if rule.list("operations").is_empty() {
        causes.needed(&operations, "");
    }
    for (index, operation) in rule.texts("operations").enumerate().filter(|(_, one)| !OPERATIONS.contains(one)) {
        causes.unsupported(&operations.index(index), operation, &OPERATIONS);
    }
    for field in ["apiGroups", "apiVersions", "resources"] {
        let at = path.field(field);
        if rule.list(field).is_empty() {
            causes.needed(&at, "");
        }
        let (wild, others) = match field {
            "apiGroups" => ("*", "API groups"),
            "apiVersions" => ("*", "API versions"),
            _ => ("*/*", "resources"),
        };
        if rule.list(field).len() > 1 && rule.texts(field).any(|one| one == wild) {
            causes.bad(&at, rule[field].clone(), &format!("if '{wild}' is present, must not specify other {others}"));
        }
        for (index, text) in rule.texts(field).enumerate().filter(|(_, text)| text.is_empty() && field != "apiGroups") {
            causes.needed(&at.index(index), text);
        }
    }
    causes.one_of(rule, "scope", path, &RESOURCE_SCOPES);
}

/// Cells of a configuration.
pub fn columns(configuration: &Object, clock: &Clock) -> Vec<Value> {
    vec![configuration.name().into(), configuration.list("webhooks").len().into(), print::age(configuration, clock)]
}
