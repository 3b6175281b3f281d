//! Names of resources and the paths under which the API serves them.

use std::borrow::Cow;
use std::fmt;

use store::Kind;

/// A resource in one version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// Group, empty for core.
    pub group: Cow<'static, str>,
    /// Version.
    pub version: Cow<'static, str>,
    /// Plural name.
    pub plural: Cow<'static, str>,
}

impl ResourceId {
    /// A resource known at compile time.
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> ResourceId {
        ResourceId { group: Cow::Borrowed(group), version: Cow::Borrowed(version), plural: Cow::Borrowed(plural) }
    }

    /// The resource of a typed kind.
    pub fn of<K: k8s_openapi::Resource>() -> ResourceId {
        ResourceId::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT)
    }

    /// `/api/v1/namespaces/ns/pods` or `/apis/apps/v1/deployments`; a namespace is left out when empty.
    pub fn collection_path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        if namespace.is_empty() { format!("{root}/{}", self.plural) } else { format!("{root}/namespaces/{namespace}/{}", self.plural) }
    }

    /// The path of one object, with a subresource unless that is empty.
    pub fn path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = self.collection_path(namespace);
        path.push('/');
        path.push_str(name);
        if !subresource.is_empty() {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }

    /// Where the objects live in the store.
    pub fn store_kind(&self) -> Kind {
        let custom = api::resources::find(&self.group, &self.version, &self.plural).is_none();
        Kind::new(api::resources::storage_prefix(&self.group, &self.plural, custom))
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { write!(f, "{}", self.plural) } else { write!(f, "{}.{}", self.plural, self.group) }
    }
}
