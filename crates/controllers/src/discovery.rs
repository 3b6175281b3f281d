//! What resources there are, asked of the server: built-in, custom and aggregated ones.

use anyhow::Result;
use client::{Client, ResourceId};
use http::header::ACCEPT;
use serde_json::Value;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A resource as discovery shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discovered {
    /// Where it is served, in the version that its group prefers.
    pub(crate) resource: ResourceId,
    /// Kind of its objects.
    pub(crate) kind: String,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Verbs.
    pub(crate) verbs: Vec<String>,
}

impl Discovered {
    /// Whether a verb is served.
    pub(crate) fn has(&self, verb: &str) -> bool {
        self.verbs.iter().any(|one| one == verb)
    }
}

/// All resources, each in one version, and the group versions that could not be asked.
pub(crate) async fn resources(client: &Client) -> Result<(Vec<Discovered>, Vec<String>)> {
    let (mut found, mut stale) = (Vec::new(), Vec::new());
    for path in ["/api", "/apis"] {
        let request = http::Request::get(path).header(ACCEPT, AGGREGATED).body(bytes::Bytes::new())?;
        let answer = client.transport().call(request).await?;
        let list: Value = serde_json::from_slice(answer.body())?;
        for group in list["items"].as_array().into_iter().flatten() {
            read_group(group, &mut found, &mut stale);
        }
    }
    Ok((found, stale))
}

/// Versions come in the order of preference, so that the first one with a resource counts.
fn read_group(group: &Value, found: &mut Vec<Discovered>, stale: &mut Vec<String>) {
    let name = group["metadata"]["name"].as_str().unwrap_or("");
    let first = found.len();
    for version in group["versions"].as_array().into_iter().flatten() {
        let number = version["version"].as_str().unwrap_or("");
        if version["freshness"] == "Stale" {
            stale.push(format!("{name}/{number}"));
        }
        for resource in version["resources"].as_array().into_iter().flatten() {
            let plural = resource["resource"].as_str().unwrap_or("");
            if plural.is_empty() || found[first..].iter().any(|one| one.resource.plural == plural) {
                continue;
            }
            let verbs = resource["verbs"].as_array().into_iter().flatten().filter_map(|verb| verb.as_str().map(str::to_owned)).collect();
            found.push(Discovered {
                resource: ResourceId { group: name.to_owned().into(), version: number.to_owned().into(), plural: plural.to_owned().into() },
                kind: resource["responseKind"]["kind"].as_str().unwrap_or("").to_owned(),
                namespaced: resource["scope"] == "Namespaced",
                verbs,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn preferred_versions_count() {
        let resource =
            |plural: &str| json!({"resource": plural, "scope": "Namespaced", "responseKind": {"kind": "X"}, "verbs": ["list", "delete"]});
        let group = json!({"metadata": {"name": "g"}, "versions": [
            {"version": "v2", "freshness": "Current", "resources": [resource("a")]},
            {"version": "v1", "freshness": "Stale", "resources": [resource("a"), resource("b")]},
        ]});
        let (mut found, mut stale) = (Vec::new(), Vec::new());
        read_group(&group, &mut found, &mut stale);
        let names: Vec<String> = found.iter().map(|one| one.resource.collection_path("")).collect();
        assert_eq!(names, ["/apis/g/v2/a", "/apis/g/v1/b"]);
        assert_eq!(stale, ["g/v1"]);
        assert!(found[0].has("delete") && !found[0].has("get"));
    }
}
