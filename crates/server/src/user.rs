//! Who calls: the outcome of authentication, carried through the whole pipeline.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// An authenticated (or anonymous) caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// UID, often empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Anything else that the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group of everyone who showed who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

impl User {
    /// A user with groups; `system:authenticated` is added.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        let mut user = User { name: name.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect(), ..User::default() };
        user.mark_authenticated();
        user
    }

    /// The service account of a controller or pod.
    pub fn service_account(namespace: &str, name: &str) -> User {
        let all = format!("system:serviceaccounts:{namespace}");
        User::new(format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &all])
    }

    /// A kubelet.
    pub fn node(name: &str) -> User {
        User::new(format!("system:node:{name}"), &["system:nodes"])
    }

    /// Nobody known.
    pub fn anonymous() -> User {
        User { name: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// Adds `system:authenticated` unless it is there.
    pub fn mark_authenticated(&mut self) {
        if !self.in_group(AUTHENTICATED) && self.name != "system:anonymous" {
            self.groups.push(AUTHENTICATED.to_owned());
        }
    }

    /// The node's name if this is a kubelet.
    pub fn node_name(&self) -> Option<&str> {
        let name = self.name.strip_prefix("system:node:")?;
        self.in_group("system:nodes").then_some(name)
    }

    /// Namespace and name if this is a service account.
    pub fn account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    /// As `authentication.k8s.io` `UserInfo`.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            value["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            value["extra"] = json!(self.extra);
        }
        value
    }
}
