//! Whether a webhook or policy is concerned by a request: rules, namespaces, objects.

use std::sync::Arc;

use api::Object;
use api::label_selector::LabelSelector;
use serde_json::Value;
use store::Kind;

use super::Admission;
use crate::catalog::Served;
use crate::server::Server;

/// What concerns somebody.
pub struct Matching {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Other versions of the resource count, too.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn rules(value: &Value) -> Vec<Rule> {
    let list = value.as_array().into_iter().flatten();
    list.map(|rule| Rule {
        operations: texts(&rule["operations"]),
        groups: texts(&rule["apiGroups"]),
        versions: texts(&rule["apiVersions"]),
        resources: texts(&rule["resources"]),
        names: texts(&rule["resourceNames"]),
        scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
    })
    .collect()
}

impl Matching {
    /// Reads a webhook (`rules`) or the match resources of a policy (`resourceRules`).
    pub fn read(value: &Value) -> Matching {
        let selector = |field: &str| match &value[field] {
            Value::Null => LabelSelector::everything(),
            value => LabelSelector::from_value(value).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        let own = if value["rules"].is_array() { &value["rules"] } else { &value["resourceRules"] };
        Matching {
            rules: rules(own),
            excluded: rules(&value["excludeResourceRules"]),
            equivalent: value["matchPolicy"] != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The version of the resource that is concerned: that of the request, or an equivalent one.
    pub fn version(&self, server: &Server, admission: &Admission) -> Option<Arc<Served>> {
        if self.excluded.iter().any(|rule| covers(rule, &admission.served, admission)) {
            return None;
        }
        if self.rules.iter().any(|rule| covers(rule, &admission.served, admission)) {
            return Some(admission.served.clone());
        }
        if !self.equivalent {
            return None;
        }
        let own = &admission.served.def;
        let catalog = server.catalog();
        let mut others = catalog.all.iter().filter(|other| {
            let related = other.def.group == own.group || other.store == admission.served.store;
            related && other.def.plural == own.plural && (other.def.version != own.version || other.def.group != own.group)
        });
        others.find(|other| self.rules.iter().any(|rule| covers(rule, other, admission))).cloned()
    }

    /// Whether rules were given at all: the match resources of a binding may leave them out.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether the selectors match.
    pub fn selects(&self, server: &Server, admission: &Admission) -> bool {
        namespace(server, &self.namespaces, admission) && object(&self.objects, admission)
    }
}

fn covers(rule: &Rule, served: &Served, admission: &Admission) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
    has(&rule.operations, admission.operation.text())
        && has(&rule.groups, &served.def.group)
        && has(&rule.versions, &served.def.version)
        && rule.resources.iter().any(|resource| covers_resource(resource, &served.def.plural, &admission.subresource))
        && (rule.names.is_empty() || rule.names.contains(&admission.name))
        && match rule.scope.as_str() {
            "Namespaced" => served.def.namespaced(),
            "Cluster" => !served.def.namespaced(),
            _ => true,
        }
}

fn covers_resource(rule: &str, plural: &str, subresource: &str) -> bool {
    let (resource, part) = rule.split_once('/').unwrap_or((rule, ""));
    (resource == "*" || resource == plural) && (part == "*" || part == subresource)
}

fn namespace(server: &Server, selector: &LabelSelector, admission: &Admission) -> bool {
    if selector.is_everything() {
        return true;
    }
    if admission.is_any("", "namespaces") {
        let object = admission.object.as_ref().or(admission.old.as_deref());
        return object.is_some_and(|object| selector.matches(|key| object.label(key)));
    }
    if admission.namespace.is_empty() {
        return true;
    }
    let key = Kind::new(api::resources::storage_prefix("", "namespaces", false)).key(admission.namespace.as_str());
    server.store.mvcc().get(&key).value.is_some_and(|entry| selector.matches_sorted(&entry.header.labels))
}

fn object(selector: &LabelSelector, admission: &Admission) -> bool {
    if selector.is_everything() {
        return true;
    }
    let matches = |object: Option<&Object>| object.is_some_and(|object| selector.matches(|key| object.label(key)));
    matches(admission.object.as_ref()) || matches(admission.old.as_deref())
}
