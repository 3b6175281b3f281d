//! The audit policy: which requests are written down, how fully, and at which stages. The first rule that matches decides.

use serde::Deserialize;

use crate::attributes::Attributes;
use crate::user::User;

/// How much of a request is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when, with which outcome.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

impl Level {
    /// As policies name it.
    pub fn text(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// The request has come.
    RequestReceived,
    /// The answer of a long-running request has begun.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The request panicked.
    Panic,
}

impl Stage {
    /// As events name it.
    pub fn text(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// A policy file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a policy says about one request.
#[derive(Clone, Debug)]
pub struct Decision {
    /// How fully.
    pub level: Level,
    /// Stages that are left out.
    pub omit_stages: Vec<Stage>,
    /// `managedFields` are left out.
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy in YAML or JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Policy, String> {
        let value = codec::yaml::parse(text).map_err(|error| error.to_string())?;
        let policy: Policy = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!("unknown group version field {:?} kind {:?} in audit policy", policy.api_version, policy.kind));
        }
        if policy.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| format!("rules[{index}]: {why}"))?;
        }
        Ok(policy)
    }

    /// What is to be done with a request.
    pub fn decide(&self, user: &User, attributes: &Attributes) -> Decision {
        match self.rules.iter().find(|rule| rule.matches(user, attributes)) {
            Some(rule) => Decision {
                level: rule.level,
                omit_stages: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
            None => Decision { level: Level::None, omit_stages: Vec::new(), omit_managed_fields: false },
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if !self.paths.is_empty() && (!self.resources.is_empty() || !self.namespaces.is_empty()) {
            return Err("nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs".into());
        }
        for path in self.paths.iter().filter(|path| *path != "*") {
            if !path.starts_with('/') {
                return Err(format!("nonResourceURLs {path:?}: rules must begin with '/' or be '*'"));
            }
            if path[..path.len() - 1].contains('*') {
                return Err(format!("nonResourceURLs {path:?}: '*' can only be the last character"));
            }
        }
        for one in &self.resources {
            if one.group.contains('/') {
                return Err(format!("resources group {:?} must not contain a version", one.group));
            }
            if one.resources.is_empty() && !one.resource_names.is_empty() {
                return Err("resources.resourceNames needs at least one resource".into());
            }
        }
        Ok(())
    }

    fn matches(&self, user: &User, attributes: &Attributes) -> bool {
        let within = |list: &[String], text: &str| list.is_empty() || list.iter().any(|one| one == text);
        if !within(&self.users, &user.name)
            || !within(&self.verbs, attributes.verb)
            || !(self.user_groups.is_empty() || user.groups.iter().any(|group| self.user_groups.contains(group)))
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return attributes.is_resource()
                && within(&self.namespaces, &attributes.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|one| one.matches(attributes)));
        }
        if !self.paths.is_empty() {
            return !attributes.is_resource() && self.paths.iter().any(|spec| path_matches(spec, &attributes.path));
        }
        true
    }
}

fn path_matches(spec: &str, path: &str) -> bool {
    spec == "*" || spec == path || spec.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

impl GroupResources {
    fn matches(&self, attributes: &Attributes) -> bool {
        if self.group != "*" && self.group != attributes.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&attributes.name) {
            return false;
        }
        let full = attributes.full_resource();
        self.resources.iter().any(|one| {
            one == "*"
                || **one == *full
                || (!attributes.subresource.is_empty() && one.strip_prefix("*/").is_some_and(|rest| rest == attributes.subresource))
                || one.strip_suffix("/*").is_some_and(|resource| resource == attributes.resource)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ['system:kube-proxy'], verbs: [watch]}
- {level: None, nonResourceURLs: ['/healthz*', /version]}
- {level: Metadata, resources: [{group: '', resources: [secrets, configmaps, 'serviceaccounts/token']}]}
- {level: Request, resources: [{group: apps, resources: ['deployments/*'], resourceNames: [web]}], omitStages: [ResponseStarted]}
- {level: RequestResponse, namespaces: [shop], omitManagedFields: true}
- {level: None, userGroups: ['system:nodes']}
- {level: Metadata}
";

    #[track_caller]
    fn check(user: &User, verb: &'static str, resource: (&str, &str), namespace: &str, name: &str, expected: Level) {
        let policy = Policy::parse(POLICY.as_bytes()).expect("the policy is good");
        let attributes = match resource {
            ("path", path) => Attributes { verb, path: path.into(), ..Attributes::default() },
            (group, resource) => {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                Attributes {
                    verb,
                    group: group.into(),
                    resource: resource.into(),
                    subresource: subresource.into(),
                    namespace: namespace.into(),
                    name: name.into(),
                    ..Attributes::default()
                }
            }
        };
        assert_eq!(policy.decide(user, &attributes).level, expected);
    }

    #[test]
    fn the_first_match_decides() {
        let (alice, proxy, node) = (User::new("alice", &[]), User::new("system:kube-proxy", &[]), User::node("one"));
        check(&proxy, "watch", ("", "services"), "", "", Level::None);
        check(&proxy, "list", ("", "services"), "", "", Level::Metadata);
        check(&alice, "get", ("path", "/healthz/etcd"), "", "", Level::None);
        check(&alice, "get", ("path", "/metrics"), "", "", Level::Metadata);
        check(&alice, "get", ("", "secrets"), "shop", "x", Level::Metadata);
        check(&alice, "create", ("", "serviceaccounts/token"), "shop", "x", Level::Metadata);
        check(&alice, "create", ("", "serviceaccounts"), "shop", "x", Level::RequestResponse);
        check(&alice, "patch", ("apps", "deployments/scale"), "a", "web", Level::Request);
        check(&alice, "patch", ("apps", "deployments/scale"), "a", "other", Level::Metadata);
        check(&node, "get", ("", "nodes"), "", "one", Level::None);
        let policy = Policy::parse(POLICY.as_bytes()).expect("the policy is good");
        let scale = Attributes {
            resource: "deployments".into(),
            subresource: "scale".into(),
            group: "apps".into(),
            name: "web".into(),
            ..Attributes::default()
        };
        assert_eq!(policy.decide(&alice, &scale).omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
    }

    #[test]
    fn bad_policies_are_refused() {
        for (text, why) in [
            ("{}", "unknown group version"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy}", "0 rules"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Loud}]}", "Loud"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, namespaces: [a], nonResourceURLs: [/x]}]}", "both regular"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, nonResourceURLs: ['/a*b']}]}", "last character"),
        ] {
            let found = Policy::parse(text.as_bytes()).expect_err("it is bad");
            assert!(found.contains(why), "{found}");
        }
    }
}
