//! Aggregation of cluster roles: a role with an aggregation rule has the rules of all roles that it selects.

use std::sync::Arc;

use anyhow::Result;
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use client::{PatchKind, ResourceId, Selection};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::json;

use crate::{Config, Entry};

const ROLES: ResourceId = ResourceId::new("rbac.authorization.k8s.io", "v1", "clusterroles");

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "clusterrole-aggregation-controller", controller: Arc::new(Aggregation) }
}

struct Aggregation;

#[async_trait]
impl Controller for Aggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        // Any role may be selected by any aggregated one; there are few of these.
        vec![Watch::mapped(Selection::of::<ClusterRole>(), |context, _, _, add| {
            for entry in context.cache::<ClusterRole>().list() {
                if is_aggregated(&entry) {
                    add(ObjectKey::of(&entry));
                }
            }
        })]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let cache = context.cache::<ClusterRole>();
        let Some(role) = cache.read::<ClusterRole>("", &key.name) else {
            return Ok(Next::Done);
        };
        let Some(aggregation) = &role.aggregation_rule else {
            return Ok(Next::Done);
        };
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in aggregation.cluster_role_selectors.iter().flatten() {
            let selector = LabelSelector::from_value(&serde_json::to_value(selector)?).map_err(anyhow::Error::msg)?;
            for entry in
                cache.list().iter().filter(|entry| *entry.header.name != *key.name && selector.matches_sorted(&entry.header.labels))
            {
                for rule in cache::decode::<ClusterRole>(entry).and_then(|role| role.rules).unwrap_or_default() {
                    if !rules.contains(&rule) {
                        rules.push(rule);
                    }
                }
            }
        }
        if role.rules.as_deref().unwrap_or_default() != rules.as_slice() {
            let patch = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": &*key.name}, "rules": rules});
            let kind = PatchKind::Apply { manager: "clusterrole-aggregation-controller".into(), force: true };
            context.client.patch(&ROLES, "", &key.name, "", &kind, &patch).await?;
        }
        Ok(Next::Done)
    }
}

fn is_aggregated(entry: &store::Entry) -> bool {
    let field = b"\"aggregationRule\"";
    entry.bytes.windows(field.len()).any(|window| window == field)
}
