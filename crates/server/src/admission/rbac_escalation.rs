//! Nobody gives rights that they do not have: roles and bindings are checked against those of the writer.
//!
//! The verbs `escalate` (on roles) and `bind` (on the role that is bound) lift this.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Operation, Plugin};
use crate::attributes::Attributes;
use crate::authorize;
use crate::authorize::rbac::Rule;
use crate::server::Server;
use crate::user::MASTERS;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(RbacEscalation)
}

struct RbacEscalation;

#[async_trait]
impl Plugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RbacEscalation"
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        let concerned = &*admission.served.def.group == GROUP
            && admission.subresource.is_empty()
            && matches!(admission.operation, Operation::Create | Operation::Update);
        if !concerned || admission.user.in_group(MASTERS) {
            return Ok(());
        }
        let Some(object) = &admission.object else { return Ok(()) };
        match &*admission.served.def.plural {
            "roles" | "clusterroles" => role(server, admission, object),
            _ => binding(server, admission, object),
        }
    }
}

fn asked(admission: &Admission, verb: &'static str, resource: &str, name: &str) -> Attributes {
    Attributes {
        verb,
        group: GROUP.into(),
        version: "v1".into(),
        resource: resource.into(),
        namespace: admission.namespace.clone(),
        name: name.into(),
        ..Attributes::default()
    }
}

fn role(server: &Server, admission: &Admission, object: &Object) -> Result<(), Status> {
    let part = |object: Option<&Object>, field: &str| object.and_then(|object| object.get(field).cloned()).unwrap_or(Value::Null);
    let unchanged = ["rules", "aggregationRule"].iter().all(|field| part(admission.old.as_deref(), field) == part(Some(object), field));
    if admission.operation == Operation::Update && unchanged {
        return Ok(());
    }
    let resource = admission.served.def.plural.to_string();
    if authorize::decide(server, &admission.user, &asked(admission, "escalate", &resource, object.name())).allowed {
        return Ok(());
    }
    let mut rules = rules(&part(Some(object), "rules"));
    if part(Some(object), "aggregationRule").is_object() {
        rules.push(everything());
    }
    check(server, admission, &rules)
}

fn rules(value: &Value) -> Vec<Rule> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

/// An aggregated role may come to mean anything.
fn everything() -> Rule {
    let all = || vec!["*".into()];
    Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() }
}

fn binding(server: &Server, admission: &Admission, object: &Object) -> Result<(), Status> {
    let old = admission.old.as_ref();
    let unchanged = old.is_some_and(|old| old.get("roleRef") == object.get("roleRef") && old.get("subjects") == object.get("subjects"));
    if unchanged {
        return Ok(());
    }
    let (kind, name) = (object.text_at(&["roleRef", "kind"]), object.text_at(&["roleRef", "name"]));
    let resource = if kind == "Role" { "roles" } else { "clusterroles" };
    if authorize::decide(server, &admission.user, &asked(admission, "bind", resource, name)).allowed {
        return Ok(());
    }
    let namespace = if kind == "Role" { admission.namespace.as_str() } else { "" };
    let Some(rules) = server.rbac.read().role(namespace, name) else {
        return Err(Status::not_found(GROUP, resource, name));
    };
    check(server, admission, &rules)
}

fn check(server: &Server, admission: &Admission, wanted: &[Rule]) -> Result<(), Status> {
    let own = server.rbac.read().rules_of(&admission.user, &admission.namespace);
    let missing: Vec<String> =
        wanted.iter().flat_map(pieces).filter(|piece| !own.iter().any(|rule| includes(rule, piece))).map(|piece| shown(&piece)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let user = &admission.user;
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups,
        missing.join("\n")
    );
    Err(admission.forbidden(&why))
}

/// A rule as rules of one verb, group and resource (or path) each.
fn pieces(rule: &Rule) -> Vec<Rule> {
    let mut all = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            all.push(Rule { verbs: vec![verb.clone()], non_resource_urls: vec![url.clone()], ..Rule::default() });
        }
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let names: Vec<Vec<Box<str>>> = if rule.resource_names.is_empty() {
                    vec![Vec::new()]
                } else {
                    rule.resource_names.iter().map(|name| vec![name.clone()]).collect()
                };
                all.extend(names.into_iter().map(|resource_names| Rule {
                    verbs: vec![verb.clone()],
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    resource_names,
                    non_resource_urls: Vec::new(),
                }));
            }
        }
    }
    all
}

/// Whether a rule includes a piece.
fn includes(rule: &Rule, piece: &Rule) -> bool {
    let has = |list: &[Box<str>], wanted: &Box<str>| list.iter().any(|one| &**one == "*" || one == wanted);
    if !has(&rule.verbs, &piece.verbs[0]) {
        return false;
    }
    if let Some(url) = piece.non_resource_urls.first() {
        return rule.non_resource_urls.iter().any(|own| own == url || own.strip_suffix('*').is_some_and(|prefix| url.starts_with(prefix)));
    }
    let resource = &piece.resources[0];
    let resources = has(&rule.resources, resource)
        || resource.split_once('/').is_some_and(|(_, part)| rule.resources.iter().any(|own| own.strip_prefix("*/") == Some(part)));
    let names = rule.resource_names.is_empty() || piece.resource_names.first().is_some_and(|name| rule.resource_names.contains(name));
    has(&rule.api_groups, &piece.api_groups[0]) && resources && names
}

fn shown(piece: &Rule) -> String {
    if !piece.non_resource_urls.is_empty() {
        return format!("{{NonResourceURLs:{:?}, Verbs:{:?}}}", piece.non_resource_urls, piece.verbs);
    }
    let names = if piece.resource_names.is_empty() { String::new() } else { format!(", ResourceNames:{:?}", piece.resource_names) };
    format!("{{APIGroups:{:?}, Resources:{:?}{names}, Verbs:{:?}}}", piece.api_groups, piece.resources, piece.verbs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_include_their_parts() {
        let rule = |text: &str| serde_json::from_str::<Rule>(text).unwrap();
        let all = rule(r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}"#);
        let pods = rule(r#"{"verbs":["get","list"],"apiGroups":[""],"resources":["pods","pods/log"]}"#);
        assert_eq!(pieces(&pods).len(), 4);
        assert!(pieces(&pods).iter().all(|piece| includes(&all, piece)));
        assert!(pieces(&pods).iter().all(|piece| includes(&pods, piece)));
        assert!(!pieces(&all).iter().all(|piece| includes(&pods, piece)));
    }
}
