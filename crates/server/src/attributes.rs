//! What a request is about, read off its method, path and query: the same words that authorization,
//! admission, audit and metrics use.

use std::borrow::Cow;

use http::Method;

/// What is done. The text is what authorization rules name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read many.
    List,
    /// Follow changes.
    Watch,
    /// Make an object (or post to a subresource).
    Create,
    /// Replace.
    Update,
    /// Change.
    Patch,
    /// Remove one.
    Delete,
    /// Remove many.
    DeleteCollection,
    /// HEAD on a path that is no resource.
    Head,
    /// OPTIONS on a path that is no resource.
    Options,
}

impl Verb {
    /// As rules name it. Paths that are no resources use the HTTP method in lower case.
    pub fn text(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Head => "head",
            Verb::Options => "options",
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Verb as rules name it.
    pub verb: &'static str,
    /// Group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural; empty for paths that are no resources.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace, empty for none.
    pub namespace: String,
    /// Name, empty for a collection.
    pub name: String,
    /// What follows a subresource (`proxy/...`), with its leading slash.
    pub rest: String,
    /// The path.
    pub path: String,
}

/// A classified request: what it is about and which verb serves it.
#[derive(Clone, Debug)]
pub struct Classified {
    /// For rules.
    pub attributes: Attributes,
    /// For dispatch.
    pub verb: Verb,
}

impl Attributes {
    /// Whether a resource is asked for, not some other path.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// `resource` or `resource/subresource`.
    pub fn full_resource(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() {
            Cow::Borrowed(&self.resource)
        } else {
            Cow::Owned(format!("{}/{}", self.resource, self.subresource))
        }
    }
}

/// Subresources of namespaces, which are no resources inside one.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// Reads method, path and query. `watch` says whether the query asks for one.
pub fn classify(method: &Method, path: &str, watch: bool) -> Classified {
    let mut attributes = Attributes { path: path.to_owned(), ..Attributes::default() };
    let verb = match resource_path(path, &mut attributes) {
        Some(legacy_watch) => resource_verb(method, &attributes, watch || legacy_watch),
        None => other_verb(method),
    };
    attributes.verb = verb.text();
    Classified { attributes, verb }
}

/// Fills in the resource; `None` if the path names none, else whether it is a legacy watch path.
fn resource_path(path: &str, attributes: &mut Attributes) -> Option<bool> {
    let mut parts = path.split('/').skip(1).map(decoded);
    match &*parts.next()? {
        "api" => attributes.version = parts.next()?.into_owned(),
        "apis" => {
            attributes.group = parts.next()?.into_owned();
            attributes.version = parts.next()?.into_owned();
        }
        _ => return None,
    }
    let mut parts: Vec<Cow<'_, str>> = parts.collect();
    while parts.last().is_some_and(|part| part.is_empty()) && parts.len() > 1 && !parts.iter().any(|part| part == "proxy") {
        parts.pop();
    }
    let legacy_watch = parts.len() > 1 && parts[0] == "watch";
    if legacy_watch {
        parts.remove(0);
    }
    if parts.first().is_none_or(|first| first.is_empty()) {
        attributes.group.clear();
        attributes.version.clear();
        return None;
    }
    let core_namespaces = parts[0] == "namespaces";
    if core_namespaces && parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&&*parts[2]) {
        attributes.namespace = parts[1].to_string();
        parts.drain(..2);
    } else if core_namespaces && parts.len() > 1 {
        attributes.namespace = parts[1].to_string();
    }
    attributes.resource = parts[0].to_string();
    if let Some(name) = parts.get(1) {
        attributes.name = name.to_string();
    }
    if let Some(subresource) = parts.get(2) {
        attributes.subresource = subresource.to_string();
    }
    if parts.len() > 3 {
        attributes.rest = format!("/{}", parts[3..].join("/"));
    }
    Some(legacy_watch)
}

fn decoded(part: &str) -> Cow<'_, str> {
    if part.contains('%') { Cow::Owned(crate::query::percent_decode(part, false)) } else { Cow::Borrowed(part) }
}

fn resource_verb(method: &Method, attributes: &Attributes, watch: bool) -> Verb {
    let one = !attributes.name.is_empty();
    match *method {
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if one => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ if watch && attributes.subresource.is_empty() => Verb::Watch,
        _ if one => Verb::Get,
        _ => Verb::List,
    }
}

fn other_verb(method: &Method) -> Verb {
    match *method {
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        Method::HEAD => Verb::Head,
        Method::OPTIONS => Verb::Options,
        _ => Verb::Get,
    }
}

/// The verb of a path that is no resource, as rules name it: the HTTP method in lower case.
pub fn path_verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::HEAD => "head",
        Method::OPTIONS => "options",
        _ => "get",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, watch: bool, expected: &str) {
        let Classified { attributes: a, .. } = classify(&method, path, watch);
        let shown = format!("{} {}/{} {} {} {} {} {}", a.verb, a.group, a.version, a.resource, a.subresource, a.namespace, a.name, a.rest);
        assert_eq!(shown.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn paths() {
        check(Method::GET, "/api/v1/namespaces/ns/pods/p", false, "get /v1 pods ns p");
        check(Method::GET, "/api/v1/namespaces/ns", false, "get /v1 namespaces ns ns");
        check(Method::PUT, "/api/v1/namespaces/ns/finalize", false, "update /v1 namespaces finalize ns ns");
        check(Method::GET, "/apis/apps/v1/deployments", true, "watch apps/v1 deployments");
        check(Method::GET, "/api/v1/watch/namespaces/ns/pods", false, "watch /v1 pods ns");
        check(Method::POST, "/api/v1/namespaces/ns/services/s/proxy/a/b", false, "create /v1 services proxy ns s /a/b");
        check(Method::DELETE, "/api/v1/namespaces/ns/pods", false, "deletecollection /v1 pods ns");
        check(Method::GET, "/api/v1/namespaces/", false, "list /v1 namespaces");
    }

    #[test]
    fn no_resources() {
        for path in ["/", "/api", "/api/v1", "/apis/apps/v1", "/apis/apps/v1/", "/healthz/etcd", "/version"] {
            assert!(!classify(&Method::GET, path, false).attributes.is_resource(), "{path}");
        }
    }
}
