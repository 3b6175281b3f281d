//! Type checking of validating admission policies: expressions that cannot be right for a kind that a policy matches by
//! name are told in its status. The policy works all the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::{Client, PatchKind, ResourceId, Selection};
use http::Method;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::{Value, json};

use crate::{Config, Entry};

const POLICIES: ResourceId = ResourceId::new("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies");
const NAME: &str = "validatingadmissionpolicy-status-controller";

/// Kinds of one policy that are looked at.
const MOST_KINDS: usize = 10;

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: NAME, controller: Arc::new(PolicyStatus) }
}

struct PolicyStatus;

#[async_trait]
impl Controller for PolicyStatus {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<ValidatingAdmissionPolicy>())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(entry) = context.cache::<ValidatingAdmissionPolicy>().get("", &key.name) else { return Ok(Next::Done) };
        let policy: Value = serde_json::from_slice(&entry.bytes)?;
        if policy["status"]["observedGeneration"].as_i64().unwrap_or(0) >= entry.header.generation {
            return Ok(Next::Done);
        }
        let warnings = warnings(&context.client, &policy["spec"]).await?;
        let mut checking = json!({});
        if !warnings.is_empty() {
            checking["expressionWarnings"] = warnings.into();
        }
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": &*key.name},
            "status": {"observedGeneration": entry.header.generation, "typeChecking": checking},
        });
        let kind = PatchKind::Apply { manager: NAME.into(), force: true };
        context.client.patch(&POLICIES, "", &key.name, "status", &kind, &patch).await?;
        Ok(Next::Done)
    }
}

/// A kind as messages name it, and the type of its objects.
struct Matched {
    name: String,
    object: cel::Type,
}

/// One warning for each expression that does not fit all kinds, in the order of the policy.
async fn warnings(client: &Client, spec: &Value) -> Result<Vec<Value>> {
    let mut kinds: Vec<Matched> = Vec::new();
    for (group, version, plural) in named(spec) {
        kinds.extend(matched(client, &group, &version, &plural).await?);
    }
    kinds.sort_by(|left, right| left.name.cmp(&right.name));
    kinds.dedup_by(|left, right| left.name == right.name);
    let params = params(client, &spec["paramKind"]).await?;
    let found: Vec<(&str, Vec<(String, String)>)> =
        kinds.iter().map(|kind| (&*kind.name, cel::policy::type_check(spec, &kind.object, params.as_ref()))).collect();
    let mut all = Vec::new();
    for index in 0..spec["validations"].as_array().map_or(0, Vec::len) {
        for field in ["expression", "messageExpression"] {
            let path = format!("spec.validations[{index}].{field}");
            let texts: Vec<String> = found
                .iter()
                .flat_map(|(kind, found)| found.iter().filter(|(at, _)| *at == path).map(move |(_, error)| format!("{kind}: {error}")))
                .collect();
            if !texts.is_empty() {
                all.push(json!({"fieldRef": path, "warning": texts.join("\n")}));
            }
        }
    }
    Ok(all)
}

/// The resources that a policy names one by one: group, version, plural. What matches many says nothing about types.
fn named(spec: &Value) -> Vec<(String, String, String)> {
    let mut all = BTreeSet::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let words = |field: &str| {
            let words = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
            words.filter(|word| !word.contains(['*', '/'])).map(str::to_owned).collect::<Vec<_>>()
        };
        for group in words("apiGroups") {
            for version in words("apiVersions") {
                all.extend(words("resources").into_iter().map(|plural| (group.clone(), version.clone(), plural)));
            }
        }
    }
    all.into_iter().take(MOST_KINDS).collect()
}

/// The kind of a resource; none where it is not served.
async fn matched(client: &Client, group: &str, version: &str, plural: &str) -> Result<Option<Matched>> {
    if let Some(def) = api::resources::find(group, version, plural) {
        return Ok(Some(Matched { name: kind_name(group, version, &def.kind), object: cel::types::of_schema(&def.schema) }));
    }
    if group.is_empty() {
        return Ok(None);
    }
    let list = match client.call(Method::GET, &format!("/apis/{group}/{version}"), &Value::Null).await {
        Err(status) if status.is_not_found() => return Ok(None),
        list => list?,
    };
    let kind = list["resources"].as_array().into_iter().flatten().find(|one| one["name"] == plural).and_then(|one| one["kind"].as_str());
    let Some(kind) = kind else { return Ok(None) };
    let object = published(client, group, version, kind).await?;
    Ok(object.map(|object| Matched { name: kind_name(group, version, kind), object }))
}

/// The type of the parameters, where it is known.
async fn params(client: &Client, kind: &Value) -> Result<Option<cel::Type>> {
    let (Some(api_version), Some(kind)) = (kind["apiVersion"].as_str(), kind["kind"].as_str()) else { return Ok(None) };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let builtin = api::resources::builtin().iter();
    let mut builtin = builtin.filter(|def| &*def.group == group && &*def.version == version && &*def.kind == kind);
    match builtin.next() {
        Some(def) => Ok(Some(cel::types::of_schema(&def.schema))),
        None => published(client, group, version, kind).await,
    }
}

/// The type of a kind whose schema the server publishes, as it does for custom resources.
async fn published(client: &Client, group: &str, version: &str, kind: &str) -> Result<Option<cel::Type>> {
    let document = match client.call(Method::GET, &format!("/openapi/v3/apis/{group}/{version}"), &Value::Null).await {
        Err(status) if status.is_not_found() => return Ok(None),
        document => document?,
    };
    let wanted = json!({"group": group, "version": version, "kind": kind});
    let schemas = document["components"]["schemas"].as_object();
    let schema = schemas.into_iter().flatten().map(|(_, schema)| schema).find(|schema| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.is_some_and(|kinds| kinds.contains(&wanted))
    });
    Ok(schema.map(|schema| {
        let mut schema = schema.clone();
        // Metadata is published as a reference, and is of one type everywhere.
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.insert("metadata".to_owned(), json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        }
        cel::rules::type_of(&schema)
    }))
}

fn kind_name(group: &str, version: &str, kind: &str) -> String {
    format!("{group}/{version}, Kind={kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_looked_at() {
        let spec = json!({"matchConstraints": {"resourceRules": [
            {"apiGroups": ["apps", "*"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/scale", "*"]},
            {"apiGroups": [""], "apiVersions": ["*"], "resources": ["pods"]},
        ]}});
        assert_eq!(named(&spec), [("apps".to_owned(), "v1".to_owned(), "deployments".to_owned())]);
    }
}
