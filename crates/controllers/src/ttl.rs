//! TTL: tells kubelets by an annotation of their node how long they may trust cached Secrets and ConfigMaps.
//!
//! The number of nodes decides for all. Where that makes another step, a node is told with its next change, as from the
//! real controller: a cluster that grows does not write all its nodes again at each step.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::{PatchKind, ResourceId, Selection};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::json;

use crate::node_view::NodeView;
use crate::{Config, Entry};

const NODES: ResourceId = ResourceId::new("", "v1", "nodes");
const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "ttl-controller", controller: Arc::new(Ttl::default()) }
}

#[derive(Default)]
struct Ttl {
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    /// What all nodes are to be told now.
    wanted: Option<u32>,
    /// What each was last found to know, or was told.
    known: HashMap<Box<str>, u32>,
}

#[async_trait]
impl Controller for Ttl {
    fn name(&self) -> &'static str {
        "ttl-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let told = self.told.clone();
        vec![Watch::mapped(Selection::of::<Node>(), move |context, old, new, add| {
            let mut told = told.lock();
            if old.is_none() || new.is_none() {
                told.wanted = Some(seconds(context.cache::<Node>().len(), told.wanted));
            }
            match (old, new) {
                (_, Some(new)) if told.known.get(&new.header.name).copied() != told.wanted => add(ObjectKey::of(new)),
                (Some(old), None) => drop(told.known.remove(&old.header.name)),
                _ => {}
            }
        })]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let cache = context.cache::<Node>();
        let Some(node) = cache.get("", &key.name) else {
            return Ok(Next::Done);
        };
        let known = NodeView::of(&node).metadata.annotations.get(ANNOTATION).and_then(|text| text.parse().ok());
        let wanted = self.told.lock().wanted.unwrap_or_else(|| seconds(cache.len(), None));
        if known != Some(wanted) {
            let patch = json!({"metadata": {"annotations": {ANNOTATION: wanted.to_string()}}});
            match context.client.patch(&NODES, "", &key.name, "", &PatchKind::Strategic, &patch).await {
                Err(status) if !status.is_not_found() => return Err(status.into()),
                _ => {}
            }
        }
        // A node that went meanwhile has taken its entry along.
        if cache.get("", &key.name).is_some() {
            self.told.lock().known.insert((&*key.name).into(), wanted);
        }
        Ok(Next::Done)
    }
}

/// Steps by the size of the cluster; a step is left downwards a little later than upwards.
fn seconds(nodes: usize, known: Option<u32>) -> u32 {
    const STEPS: [(usize, usize, u32); 5] = [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, 10_000, 300)];
    let stays = STEPS.iter().find(|(least, most, seconds)| known == Some(*seconds) && (*least..=*most).contains(&nodes));
    let fits = STEPS.iter().find(|(_, most, _)| nodes <= *most);
    stays.or(fits).map_or(300, |(_, _, seconds)| *seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_clusters_trust_longer() {
        for (nodes, known, wanted) in
            [(1, None, 0), (100, Some(0), 0), (101, Some(0), 15), (95, Some(15), 15), (89, Some(15), 0), (5000, None, 300)]
        {
            assert_eq!(seconds(nodes, known), wanted, "{nodes} {known:?}");
        }
    }
}
