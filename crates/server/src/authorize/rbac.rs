//! Roles and bindings, compiled once per version and found by subject.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use store::{Entry, Kind, Store};

use super::Verdict;
use crate::attributes::Attributes;
use crate::follow::{Follow, Projection};
use crate::user::User;

const ROLES: &str = "/registry/roles/";
const CLUSTER_ROLES: &str = "/registry/clusterroles/";
const ROLE_BINDINGS: &str = "/registry/rolebindings/";
const CLUSTER_ROLE_BINDINGS: &str = "/registry/clusterrolebindings/";

/// All roles and bindings.
#[derive(Default)]
pub struct Rbac {
    /// By `namespace/name`, or `name` for cluster roles.
    roles: HashMap<Box<str>, Arc<[Rule]>>,
    bindings: HashMap<Box<str>, Arc<Binding>>,
    by_subject: HashMap<Subject, Vec<Arc<Binding>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(Box<str>),
    Group(Box<str>),
}

/// One rule of a role.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Verbs.
    pub verbs: Vec<Box<str>>,
    /// Groups.
    #[serde(rename = "apiGroups")]
    pub api_groups: Vec<Box<str>>,
    /// Resources.
    pub resources: Vec<Box<str>>,
    /// Names; empty for all.
    pub resource_names: Vec<Box<str>>,
    /// Paths.
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<Box<str>>,
}

struct Binding {
    /// As it stands in the bindings' map.
    key: Box<str>,
    /// Empty for cluster role bindings.
    namespace: Box<str>,
    name: Box<str>,
    role: Box<str>,
    role_kind: Box<str>,
    role_name: Box<str>,
    subjects: Vec<Subject>,
    cluster: bool,
}

#[derive(Deserialize)]
struct RoleObject {
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingObject {
    #[serde(default)]
    subjects: Option<Vec<SubjectObject>>,
    role_ref: RoleRef,
}

#[derive(Deserialize)]
struct RoleRef {
    kind: Box<str>,
    name: Box<str>,
}

#[derive(Deserialize)]
struct SubjectObject {
    kind: Box<str>,
    name: Box<str>,
    #[serde(default)]
    namespace: Box<str>,
}

impl Rule {
    /// Whether the rule covers a request.
    pub fn covers(&self, asked: &Attributes) -> bool {
        has(&self.verbs, asked.verb) && if asked.is_resource() { self.covers_resource(asked) } else { self.covers_path(&asked.path) }
    }

    fn covers_resource(&self, asked: &Attributes) -> bool {
        has(&self.api_groups, &asked.group)
            && self.resources.iter().any(|resource| resource_covers(resource, &asked.resource, &asked.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| **name == *asked.name))
    }

    fn covers_path(&self, path: &str) -> bool {
        self.non_resource_urls.iter().any(|rule| match rule.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => &**rule == path,
        })
    }
}

fn resource_covers(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some(("*", part)) => part == subresource,
        Some((whole, part)) => whole == resource && part == subresource,
    }
}

fn has(list: &[Box<str>], wanted: &str) -> bool {
    list.iter().any(|one| &**one == "*" || &**one == wanted)
}

impl Rbac {
    /// A view of the roles and bindings in a store.
    pub fn follow(store: Arc<dyn Store>) -> Follow<Rbac> {
        let kinds = [CLUSTER_ROLES, ROLES, CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS].map(Kind::new).to_vec();
        Follow::new(store, kinds, Rbac::default())
    }

    /// Whether a user may do something.
    pub fn authorize(&self, user: &User, asked: &Attributes) -> Verdict {
        let mut missing: BTreeSet<&str> = BTreeSet::new();
        for binding in self.bindings_of(user, &asked.namespace) {
            match self.roles.get(&binding.role) {
                Some(rules) => {
                    if rules.iter().any(|rule| rule.covers(asked)) {
                        return Verdict::yes(binding.explanation(user));
                    }
                }
                None => {
                    missing.insert(&binding.role_name);
                }
            }
        }
        if missing.is_empty() {
            return Verdict::no("");
        }
        let texts: Vec<String> = missing.iter().map(|name| format!("clusterrole.rbac.authorization.k8s.io {name:?} not found")).collect();
        Verdict::no(format!("RBAC: {}", if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) }))
    }

    /// Everything that a user may do in a namespace.
    pub fn rules_of(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        for binding in self.bindings_of(user, namespace) {
            rules.extend(self.roles.get(&binding.role).into_iter().flat_map(|rules| rules.iter().cloned()));
        }
        rules
    }

    /// The rules of a role: of the cluster where `namespace` is empty.
    pub fn role(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.roles.get(&*role_key(namespace, name)).cloned()
    }

    fn bindings_of<'a>(&'a self, user: &User, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Binding>> {
        let own = self.by_subject.get(&Subject::User(user.name.as_str().into()));
        let groups: Vec<_> = user.groups.iter().filter_map(|group| self.by_subject.get(&Subject::Group(group.as_str().into()))).collect();
        own.into_iter()
            .chain(groups)
            .flatten()
            .filter(move |binding| binding.cluster || (!namespace.is_empty() && &*binding.namespace == namespace))
    }

    fn put_role(&mut self, entry: &Entry) {
        let rules = serde_json::from_slice::<RoleObject>(&entry.bytes).ok().and_then(|role| role.rules).unwrap_or_default();
        self.roles.insert(role_key(&entry.header.namespace, &entry.header.name), rules.into());
    }

    fn put_binding(&mut self, entry: &Entry) {
        self.remove_binding(entry);
        let Ok(object) = serde_json::from_slice::<BindingObject>(&entry.bytes) else { return };
        let namespace = entry.header.namespace.clone();
        let role_namespace = if &*object.role_ref.kind == "Role" { &*namespace } else { "" };
        let subjects = object.subjects.into_iter().flatten().map(|one| match &*one.kind {
            "Group" => Subject::Group(one.name),
            "ServiceAccount" => {
                let home = if one.namespace.is_empty() { &*namespace } else { &*one.namespace };
                Subject::User(format!("system:serviceaccount:{home}:{}", one.name).into())
            }
            _ => Subject::User(one.name),
        });
        let binding = Arc::new(Binding {
            key: entry.key.to_string().into(),
            role: role_key(role_namespace, &object.role_ref.name),
            role_kind: object.role_ref.kind,
            role_name: object.role_ref.name,
            name: entry.header.name.clone(),
            cluster: namespace.is_empty(),
            namespace: namespace.clone(),
            subjects: subjects.collect(),
        });
        for subject in &binding.subjects {
            self.by_subject.entry(subject.clone()).or_default().push(binding.clone());
        }
        self.bindings.insert(binding.key.clone(), binding);
    }

    fn remove_binding(&mut self, entry: &Entry) {
        let Some(binding) = self.bindings.remove(&*entry.key.to_string()) else { return };
        for subject in &binding.subjects {
            if let Some(list) = self.by_subject.get_mut(subject) {
                list.retain(|one| one.key != binding.key);
                if list.is_empty() {
                    self.by_subject.remove(subject);
                }
            }
        }
    }
}

fn role_key(namespace: &str, name: &str) -> Box<str> {
    if namespace.is_empty() { name.into() } else { format!("{namespace}/{name}").into() }
}

impl Binding {
    fn explanation(&self, user: &User) -> String {
        let (kind, place) = if self.cluster {
            ("ClusterRoleBinding", self.name.to_string())
        } else {
            ("RoleBinding", format!("{}/{}", self.name, self.namespace))
        };
        let meant = |subject: &&Subject| match subject {
            Subject::User(name) => **name == *user.name,
            Subject::Group(name) => user.in_group(name),
        };
        let to = match self.subjects.iter().find(meant) {
            Some(Subject::Group(name)) => format!("Group {name:?}"),
            Some(Subject::User(name)) => match name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':')) {
                Some((namespace, account)) => format!("ServiceAccount {:?}", format!("{account}/{namespace}")),
                None => format!("User {name:?}"),
            },
            None => String::new(),
        };
        format!("RBAC: allowed by {kind} {place:?} of {} {:?} to {to}", self.role_kind, self.role_name)
    }
}

impl Projection for Rbac {
    fn clear(&mut self) {
        *self = Rbac::default();
    }

    fn put(&mut self, entry: &Arc<Entry>, _previous: Option<&Arc<Entry>>) {
        match entry.key.kind.as_str() {
            ROLES | CLUSTER_ROLES => self.put_role(entry),
            _ => self.put_binding(entry),
        }
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        match entry.key.kind.as_str() {
            ROLES | CLUSTER_ROLES => {
                self.roles.remove(&role_key(&entry.header.namespace, &entry.header.name));
            }
            _ => self.remove_binding(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: &str, verb: &'static str, group: &str, resource: &str, name: &str, expected: bool) {
        let rule: Rule = serde_json::from_str(rule).unwrap();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let asked = Attributes {
            verb,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        };
        assert_eq!(rule.covers(&asked), expected);
    }

    #[test]
    fn rules() {
        let pods = r#"{"verbs":["get","list"],"apiGroups":[""],"resources":["pods","pods/log"]}"#;
        check(pods, "get", "", "pods", "x", true);
        check(pods, "get", "", "pods/log", "x", true);
        check(pods, "get", "", "pods/exec", "x", false);
        check(pods, "delete", "", "pods", "x", false);
        check(pods, "get", "apps", "pods", "x", false);
        let scale = r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*/scale"]}"#;
        check(scale, "update", "apps", "deployments/scale", "x", true);
        check(scale, "update", "apps", "deployments", "x", false);
        let named = r#"{"verbs":["get"],"apiGroups":[""],"resources":["*"],"resourceNames":["a"]}"#;
        check(named, "get", "", "secrets", "a", true);
        check(named, "get", "", "secrets", "b", false);
    }
}
