//! Whether a webhook (or a policy) is concerned by a request.

use std::sync::Arc;

use api::Object;
use api::label_selector::LabelSelector;
use store::Kind;

use super::hook::{Hook, Rule};
use crate::admission::Admission;
use crate::catalog::Served;
use crate::server::Server;

/// The version of the resource for which a hook has a rule: that of the request, or an equivalent one.
pub fn version(server: &Server, hook: &Hook, admission: &Admission) -> Option<Arc<Served>> {
    if hook.rules.iter().any(|rule| covers(rule, &admission.served, admission)) {
        return Some(admission.served.clone());
    }
    if !hook.equivalent {
        return None;
    }
    let own = &admission.served.def;
    let catalog = server.catalog();
    let others = catalog.all.iter().filter(|other| {
        let same_group = other.def.group == own.group || other.store == admission.served.store;
        same_group && other.def.plural == own.plural && other.def.version != own.version
    });
    others.into_iter().find(|other| hook.rules.iter().any(|rule| covers(rule, other, admission))).cloned()
}

fn covers(rule: &Rule, served: &Served, admission: &Admission) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
    has(&rule.operations, admission.operation.text())
        && has(&rule.groups, &served.def.group)
        && has(&rule.versions, &served.def.version)
        && rule.resources.iter().any(|resource| covers_resource(resource, &served.def.plural, &admission.subresource))
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

/// Whether the selectors of a hook match.
pub fn selects(server: &Server, hook: &Hook, admission: &Admission) -> bool {
    namespace(server, &hook.namespaces, admission) && object(&hook.objects, admission)
}

fn namespace(server: &Server, selector: &LabelSelector, admission: &Admission) -> bool {
    if selector.is_everything() {
        return true;
    }
    if admission.is_any("", "namespaces") {
        let labelled = |object: &Option<Object>| object.as_ref().is_some_and(|object| selector.matches(|key| object.label(key)));
        if admission.object.is_some() {
            return labelled(&admission.object);
        }
        return labelled(&admission.old);
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
    let matches = |object: &Option<Object>| object.as_ref().is_some_and(|object| selector.matches(|key| object.label(key)));
    matches(&admission.object) || matches(&admission.old)
}
