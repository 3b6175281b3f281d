//! Namespace: removes everything in a namespace that is being deleted, then lets the namespace itself go.
//!
//! Pods go first, so that nothing that guards them (network policies, say) is gone while they still run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use client::{Client, ResourceId, Selection};
use http::Method;
use http::header::ACCEPT;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::Value;

use crate::discovery::{self, Discovered};
use crate::pods::PODS;
use crate::{Config, Entry, moment};

const NAMESPACES: ResourceId = ResourceId::new("", "v1", "namespaces");
const FINALIZER: &str = "kubernetes";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "namespace-controller", controller: Arc::new(Namespaces) }
}

struct Namespaces;

/// What is left of a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// Group versions that could not be asked.
    stale: Vec<String>,
    /// Why content could not be deleted.
    errors: Vec<String>,
    /// Objects left by resource (`plural.group`).
    objects: BTreeMap<String, usize>,
    /// Objects left by finalizer.
    finalizers: BTreeMap<String, usize>,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self.errors.is_empty() && self.objects.is_empty()
    }
}

#[async_trait]
impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::mapped(Selection::of::<Namespace>(), |_, _, new, add| {
                if let Some(entry) = new.filter(|entry| entry.header.deletion_timestamp.is_some()) {
                    add(ObjectKey::of(entry));
                }
            }),
            // The last pods of a namespace that goes.
            Watch::mapped(Selection::of::<Pod>(), |context, old, new, add| {
                let (Some(old), None) = (old, new) else {
                    return;
                };
                let namespace = context.cache::<Namespace>().get("", &old.header.namespace);
                if namespace.is_some_and(|namespace| namespace.header.deletion_timestamp.is_some()) {
                    add(ObjectKey::new("", &old.header.namespace));
                }
            }),
        ]
    }

    fn workers(&self) -> usize {
        10
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(namespace) = context.cache::<Namespace>().read::<Namespace>("", &key.name) else {
            return Ok(Next::Done);
        };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|one| one == FINALIZER) {
            return Ok(Next::Done);
        }
        let left = empty(&context.client, &key.name).await?;
        let namespace = tell(context, namespace, &left).await?;
        if left.is_nothing() && left.stale.is_empty() {
            finalize(context, namespace, finalizers).await?;
            return Ok(Next::Done);
        }
        Ok(Next::After(patience(moment::seconds() - moment::of(namespace.metadata.deletion_timestamp.as_ref()))))
    }
}

/// Content goes in its own time; the longer it takes, the less often we look.
fn patience(elapsed: i64) -> Duration {
    Duration::from_millis((elapsed.max(0) as u64 * 250).clamp(250, 15_000))
}

/// Deletes what there is and tells what is left.
async fn empty(client: &Client, namespace: &str) -> Result<Left> {
    let (resources, stale) = discovery::resources(client).await?;
    let mut left = Left { stale, ..Left::default() };
    empty_resource(client, &PODS, namespace, &mut left).await;
    if !left.is_nothing() {
        return Ok(left);
    }
    for Discovered { resource, .. } in resources.iter().filter(|one| one.namespaced && one.has("delete") && one.has("list")) {
        empty_resource(client, resource, namespace, &mut left).await;
    }
    Ok(left)
}

async fn empty_resource(client: &Client, resource: &ResourceId, namespace: &str, left: &mut Left) {
    if let Err(status) = try_empty(client, resource, namespace, left).await {
        // A resource may vanish between discovery and now.
        if !status.is_not_found() && status.code != 405 {
            left.errors.push(status.message);
        }
    }
}

async fn try_empty(client: &Client, resource: &ResourceId, namespace: &str, left: &mut Left) -> Result<(), api::Status> {
    if remaining(client, resource, namespace, "?limit=1").await?.is_empty() {
        return Ok(());
    }
    let path = resource.collection_path(namespace);
    match client
        .call(Method::DELETE, &path, &serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}))
        .await
    {
        Err(status) if status.code == 405 => delete_each(client, resource, namespace).await?,
        result => drop(result?),
    }
    for object in remaining(client, resource, namespace, "").await? {
        *left.objects.entry(format!("{}.{}", resource.plural, resource.group)).or_default() += 1;
        for finalizer in object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            *left.finalizers.entry(finalizer.to_owned()).or_default() += 1;
        }
    }
    Ok(())
}

/// For resources without deletion of collections.
async fn delete_each(client: &Client, resource: &ResourceId, namespace: &str) -> Result<(), api::Status> {
    for object in remaining(client, resource, namespace, "").await? {
        let name = object["metadata"]["name"].as_str().unwrap_or("");
        let options = client::DeleteOptions { propagation: Some(client::Propagation::Background), ..client::DeleteOptions::default() };
        match client.delete(resource, namespace, name, &options).await {
            Err(status) if !status.is_not_found() => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

async fn remaining(client: &Client, resource: &ResourceId, namespace: &str, query: &str) -> Result<Vec<Value>, api::Status> {
    let path = format!("{}{query}", resource.collection_path(namespace));
    let request = http::Request::get(path).header(ACCEPT, METADATA_LIST).body(bytes::Bytes::new()).map_err(api::Status::internal)?;
    let answer = client.transport().call(request).await?;
    let mut list: Value = serde_json::from_slice(answer.body()).map_err(api::Status::internal)?;
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

/// Type, status, reason and message of the five conditions.
fn conditions(left: &Left) -> [(&'static str, &'static str, &'static str, String); 5] {
    let counted = |counts: &BTreeMap<String, usize>, join: &str| {
        counts.iter().map(|(name, count)| format!("{name}{join}{count} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let good = "False";
    let mut all = [
        ("NamespaceDeletionDiscoveryFailure", good, "ResourcesDiscovered", "All resources successfully discovered".to_owned()),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            good,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            good,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        ("NamespaceContentRemaining", good, "ContentRemoved", "All content successfully removed".to_owned()),
        ("NamespaceFinalizersRemaining", good, "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned()),
    ];
    if !left.stale.is_empty() {
        let text = left.stale.iter().map(|one| format!("{one}: stale GroupVersion discovery: {one}")).collect::<Vec<_>>().join(", ");
        all[0] = (
            all[0].0,
            "True",
            "DiscoveryFailed",
            format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {text}",
                left.stale.len()
            ),
        );
    }
    if !left.errors.is_empty() {
        all[2] = (
            all[2].0,
            "True",
            "ContentDeletionFailed",
            format!("Failed to delete all resource types, {} remaining: {}", left.errors.len(), left.errors.join(", ")),
        );
    }
    if !left.objects.is_empty() {
        all[3] = (all[3].0, "True", "SomeResourcesRemain", format!("Some resources are remaining: {}", counted(&left.objects, " has ")));
    }
    if !left.finalizers.is_empty() {
        all[4] = (
            all[4].0,
            "True",
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {}", counted(&left.finalizers, " in ")),
        );
    }
    all
}

/// Shows the state in the conditions of the namespace.
async fn tell(context: &Context, mut namespace: Namespace, left: &Left) -> Result<Namespace> {
    let status = namespace.status.get_or_insert_default();
    let known = status.conditions.get_or_insert_default();
    let mut changed = false;
    for (kind, value, reason, message) in conditions(left) {
        let old = known.iter_mut().find(|condition| condition.type_ == kind);
        if old
            .as_ref()
            .is_some_and(|old| old.status == value && old.reason.as_deref() == Some(reason) && old.message.as_deref() == Some(&message))
        {
            continue;
        }
        changed = true;
        let since =
            old.as_ref().filter(|old| old.status == value).and_then(|old| old.last_transition_time.clone()).unwrap_or_else(moment::now);
        let fresh = NamespaceCondition {
            type_: kind.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(since),
        };
        match old {
            Some(old) => *old = fresh,
            None => known.push(fresh),
        }
    }
    Ok(if changed { context.client.update_status(&namespace).await? } else { namespace })
}

async fn finalize(context: &Context, mut namespace: Namespace, finalizers: Vec<String>) -> Result<()> {
    let rest: Vec<String> = finalizers.into_iter().filter(|one| one != FINALIZER).collect();
    namespace.spec.get_or_insert_default().finalizers = Some(rest);
    let name = namespace.metadata.name.clone().unwrap_or_default();
    let path = NAMESPACES.path("", &name, "finalize");
    match context.client.call(Method::PUT, &path, &serde_json::to_value(&namespace)?).await {
        Err(status) if !status.is_not_found() => Err(status.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_is_left() {
        let left = Left {
            objects: BTreeMap::from([("pods.".to_owned(), 1), ("things.example.com".to_owned(), 2)]),
            finalizers: BTreeMap::from([("example.com/keep".to_owned(), 2)]),
            ..Left::default()
        };
        let found = conditions(&left);
        assert_eq!(found[3].3, "Some resources are remaining: pods. has 1 resource instances, things.example.com has 2 resource instances");
        assert_eq!(found[4].3, "Some content in the namespace has finalizers remaining: example.com/keep in 2 resource instances");
        assert_eq!(found.iter().map(|one| one.1).collect::<Vec<_>>(), ["False", "False", "False", "True", "True"]);
        assert!(!left.is_nothing() && Left::default().is_nothing());
    }

    #[test]
    fn patience_grows() {
        assert_eq!(patience(0), Duration::from_millis(250));
        assert_eq!(patience(8), Duration::from_secs(2));
        assert_eq!(patience(900), Duration::from_secs(15));
    }
}
