//! Which resources a cluster has, by its discovery: so that custom resources work like any other.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::access::{Cluster, escape};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A resource as discovery tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Name in paths.
    pub plural: String,
    /// Kind.
    pub kind: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    names: Vec<String>,
}

impl Resource {
    /// Path of a collection, or of an object in it.
    pub(crate) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path += &format!("/namespaces/{}", escape(namespace));
        }
        path += &format!("/{}", self.plural);
        if let Some(name) = name {
            path += &format!("/{}", escape(name));
        }
        path
    }

    /// As messages name it: `deployment.apps`.
    pub(crate) fn label(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }

    fn is_called(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let (name, group) = text.split_once('.').unwrap_or((&text, ""));
        let named = |name: &str| self.names.iter().any(|own| own == name);
        // After the name may come the group, or version and group.
        let placed = group.is_empty() || group == self.group || group == format!("{}.{}", self.version, self.group);
        named(name) && placed
    }
}

/// All resources of a cluster; core first, preferred versions first.
pub(crate) struct Resources(Vec<Resource>);

impl Resources {
    /// Asks the cluster.
    pub(crate) async fn discover(cluster: &Cluster) -> Result<Resources> {
        let mut all = Vec::new();
        for path in ["/api", "/apis"] {
            let groups = cluster.get(path, AGGREGATED).await?;
            for group in list(&groups, "items") {
                for version in list(group, "versions") {
                    all.extend(list(version, "resources").map(|resource| read(group, version, resource)));
                }
            }
        }
        Ok(Resources(all))
    }

    /// The resource with this name, short name, singular or kind, with or without its group.
    pub(crate) fn named(&self, text: &str) -> Result<&Resource> {
        match self.0.iter().find(|resource| resource.is_called(text)) {
            Some(resource) => Ok(resource),
            None => bail!("the server doesn't have a resource type {text:?}"),
        }
    }

    /// The resource of an object's `apiVersion` and `kind`.
    pub(crate) fn of(&self, object: &Value) -> Result<&Resource> {
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").rsplit_once('/').unwrap_or(("", text("apiVersion")));
        let found = self.0.iter().find(|resource| resource.group == group && resource.version == version && resource.kind == text("kind"));
        match found {
            Some(resource) => Ok(resource),
            None => bail!("the server has no kind {:?} in {:?}", text("kind"), text("apiVersion")),
        }
    }
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn read(group: &Value, version: &Value, resource: &Value) -> Resource {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = text(&resource["responseKind"]["kind"]);
    let mut names = vec![text(&resource["resource"]), text(&resource["singularResource"]), kind.to_lowercase()];
    names.extend(list(resource, "shortNames").map(text));
    names.retain(|name| !name.is_empty());
    Resource {
        group: text(&group["metadata"]["name"]),
        version: text(&version["version"]),
        plural: text(&resource["resource"]),
        kind,
        namespaced: resource["scope"] == "Namespaced",
        names,
    }
}

/// What a command line names: `pod x y`, `pod/x deployment/y` or `pods`.
pub(crate) fn targets(words: &[String]) -> Result<Vec<(String, Option<String>)>> {
    let Some(first) = words.first() else { bail!("name a resource, for example: pods, deployment/web") };
    if words.iter().any(|word| word.contains('/')) {
        let split = |word: &String| match word.split_once('/') {
            Some((resource, name)) if !resource.is_empty() && !name.is_empty() => Ok((resource.to_owned(), Some(name.to_owned()))),
            _ => bail!("{word:?} is not of the form resource/name, as others here are"),
        };
        return words.iter().map(split).collect();
    }
    if words.len() > 1 {
        return Ok(words[1..].iter().map(|name| (first.clone(), Some(name.clone()))).collect());
    }
    Ok(first.split(',').map(|resource| (resource.to_owned(), None)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[(&str, Option<&str>)]) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let expected: Vec<_> = expected.iter().map(|(resource, name)| ((*resource).to_owned(), name.map(str::to_owned))).collect();
        assert_eq!(targets(&words).expect(line), expected, "{line}");
    }

    #[test]
    fn words_name_objects() {
        check("pods", &[("pods", None)]);
        check("pods,services", &[("pods", None), ("services", None)]);
        check("pod a b", &[("pod", Some("a")), ("pod", Some("b"))]);
        check("pod/a deployment/b", &[("pod", Some("a")), ("deployment", Some("b"))]);
        assert!(targets(&[]).is_err());
        assert!(targets(&["pod/a".into(), "b".into()]).is_err());
    }

    #[test]
    fn resources_have_many_names() {
        let group = serde_json::json!({"metadata": {"name": "apps"}});
        let version = serde_json::json!({"version": "v1"});
        let entry = serde_json::json!({"resource": "deployments", "singularResource": "deployment", "scope": "Namespaced",
            "shortNames": ["deploy"], "responseKind": {"kind": "Deployment"}});
        let resource = read(&group, &version, &entry);
        for name in ["deployments", "deployment", "deploy", "Deployment", "deployments.apps", "deploy.v1.apps"] {
            assert!(resource.is_called(name), "{name}");
        }
        assert!(!resource.is_called("deployments.batch"));
        assert_eq!(resource.path(Some("a"), Some("b")), "/apis/apps/v1/namespaces/a/deployments/b");
        assert_eq!(resource.label(), "deployment.apps");
    }
}
