//! Resource quotas: reports what a namespace uses. Admission counts for itself; this is what users see.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::Result;
use api::quota::{self, Usage};
use api::{Object, Quantity, ResourceDef};
use async_trait::async_trait;
use client::{PodLite, ResourceId, Selection};
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::Value;

use crate::{Config, Entry, discovery, moment};

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "resourcequota-controller", controller: Arc::new(Quotas { watched: Mutex::default() }) }
}

struct Quotas {
    /// Resources that some quota has counted; they are watched from then on.
    watched: Mutex<HashSet<ResourceId>>,
}

#[async_trait]
impl Controller for Quotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<ResourceQuota>())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(entry) = context.cache::<ResourceQuota>().get(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let Some(quota) = cache::decode::<ResourceQuota>(&entry) else {
            return Ok(Next::Done);
        };
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let scopes = Object::from_value(serde_json::from_slice(&entry.bytes)?).unwrap_or_default();
        let mut used: Usage = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
        for (resource, def) in counted(context, hard.keys().map(String::as_str)).await? {
            let cache = self.watch(context, &resource);
            cache.synced().await;
            for entry in cache.list_namespace(&key.namespace) {
                let object = serde_json::from_slice::<Value>(&entry.bytes).ok().and_then(Object::from_value);
                if let Some(object) = object.filter(|object| quota::matches_scopes(&scopes, object, &def)) {
                    add(&mut used, quota::usage_of(&object, &def, moment::seconds()));
                }
            }
        }
        let used: BTreeMap<String, Text> = used.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect();
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
        if quota.status.as_ref() != Some(&status) {
            context.client.update_status(&ResourceQuota { status: Some(status), ..quota }).await?;
        }
        Ok(Next::Done)
    }
}

impl Quotas {
    fn watch(&self, context: &Context, resource: &ResourceId) -> Arc<cache::Cache> {
        let selection = Selection::all(resource.clone());
        if !self.watched.lock().insert(resource.clone()) {
            return context.cache_of(selection);
        }
        context.watch(Watch::mapped(selection, |context, old, new, add| {
            if !matters(old, new) {
                return;
            }
            if let Some(entry) = new.or(old) {
                context.cache::<ResourceQuota>().list_namespace(&entry.header.namespace).iter().for_each(|quota| add(ObjectKey::of(quota)));
            }
        }))
    }
}

/// Whether a change may change a count: what runs in a pod does not.
fn matters(old: Option<&Arc<store::Entry>>, new: Option<&Arc<store::Entry>>) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return true;
    };
    let ended = |entry: &store::Entry| entry.header.project::<PodLite>().map(PodLite::is_finished);
    ended(new).is_none()
        || ended(old) != ended(new)
        || old.header.generation != new.header.generation
        || old.header.deletion_timestamp != new.header.deletion_timestamp
}

fn add(used: &mut Usage, more: Usage) {
    for (name, amount) in more {
        if let Some(sum) = used.get_mut(&name) {
            *sum = if sum.is_zero() { amount } else { sum.add(amount) };
        }
    }
}

/// The resources whose objects count for these names.
async fn counted(context: &Context, names: impl Iterator<Item = &str>) -> Result<Vec<(ResourceId, Arc<ResourceDef>)>> {
    let mut found: BTreeMap<ResourceId, Arc<ResourceDef>> = BTreeMap::new();
    let mut served = None;
    for (group, plural) in names.map(target) {
        let core = api::resources::find(&group, "v1", &plural);
        if let Some(def) = core {
            found.insert(ResourceId { group: group.into(), version: "v1".into(), plural: plural.into() }, def.clone());
            continue;
        }
        if served.is_none() {
            served = Some(discovery::resources(&context.client).await?.0);
        }
        let known = served
            .iter()
            .flatten()
            .find(|one| one.resource.group == group && one.resource.plural == plural && one.namespaced && one.has("watch"));
        let Some(one) = known else {
            continue;
        };
        let builtin = api::resources::find(&group, &one.resource.version, &plural).cloned();
        let def = builtin.unwrap_or_else(|| Arc::new(custom(&one.resource, &one.kind)));
        found.insert(one.resource.clone(), def);
    }
    Ok(found.into_iter().collect())
}

/// A custom resource counts by its name alone; the rest of the definition is never looked at.
fn custom(resource: &ResourceId, kind: &str) -> ResourceDef {
    let pods = api::resources::find("", "v1", "pods").expect("pods are built in");
    ResourceDef {
        group: (*resource.group).into(),
        version: (*resource.version).into(),
        plural: (*resource.plural).into(),
        kind: kind.into(),
        custom: true,
        ..(**pods).clone()
    }
}

/// Group and plural of what a name counts.
fn target(name: &str) -> (String, String) {
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return (group.to_owned(), plural.to_owned());
    }
    let plural = match name {
        "configmaps" | "secrets" | "services" | "replicationcontrollers" | "resourcequotas" | "persistentvolumeclaims" => name,
        "services.nodeports" | "services.loadbalancers" => "services",
        "requests.storage" => "persistentvolumeclaims",
        _ if name.contains(".storageclass.storage.k8s.io/") => "persistentvolumeclaims",
        _ => "pods",
    };
    (String::new(), plural.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_resources() {
        for (name, group, plural) in [
            ("pods", "", "pods"),
            ("requests.cpu", "", "pods"),
            ("count/deployments.apps", "apps", "deployments"),
            ("count/widgets.example.com", "example.com", "widgets"),
            ("count/secrets", "", "secrets"),
            ("services.nodeports", "", "services"),
            ("gold.storageclass.storage.k8s.io/requests.storage", "", "persistentvolumeclaims"),
        ] {
            assert_eq!(target(name), (group.to_owned(), plural.to_owned()), "{name}");
        }
    }
}
