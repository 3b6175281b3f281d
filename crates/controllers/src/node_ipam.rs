//! Node IPAM: gives every node a range of pod addresses (`spec.podCIDR`) out of the cluster's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use async_trait::async_trait;
use client::{PatchKind, ResourceId, Selection};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::json;

use crate::{Config, Entry};

const NODES: ResourceId = ResourceId::new("", "v1", "nodes");

/// The controller.
pub fn controller(config: &Config) -> Entry {
    let controller = NodeIpam { cluster: config.cluster_cidr, mask: config.node_cidr_mask, pending: Mutex::default() };
    Entry { account: "node-controller", controller: Arc::new(controller) }
}

struct NodeIpam {
    cluster: Option<IpNet>,
    mask: u8,
    /// Ranges given out whose nodes the cache does not show yet.
    pending: Mutex<BTreeSet<IpNet>>,
}

#[async_trait]
impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<Node>())]
    }

    fn workers(&self) -> usize {
        1
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(cluster) = self.cluster else {
            return Ok(Next::Done);
        };
        let nodes = context.cache::<Node>();
        let Some(node) = nodes.read::<Node>("", &key.name) else {
            return Ok(Next::Done);
        };
        if node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.as_deref().is_some_and(|range| !range.is_empty())) {
            return Ok(Next::Done);
        }
        let used: BTreeSet<IpNet> = nodes.list().iter().filter_map(|entry| cache::decode::<Node>(entry)).filter_map(|node| node.spec?.pod_cidr?.parse().ok()).collect();
        let range = {
            let mut pending = self.pending.lock();
            pending.retain(|range| !used.contains(range));
            let Some(range) = first_free(cluster, self.mask, |range| used.contains(range) || pending.contains(range)) else {
                bail!("no range of length /{} is left in {cluster} for node {}", self.mask, key.name);
            };
            pending.insert(range);
            range
        };
        let text = range.to_string();
        let patch = json!({"spec": {"podCIDR": text, "podCIDRs": [text]}});
        let result = context.client.patch(&NODES, "", &key.name, "", &PatchKind::Strategic, &patch).await;
        if result.is_err() {
            self.pending.lock().remove(&range);
        }
        result?;
        Ok(Next::Done)
    }
}

/// The first range of a length that is not taken.
fn first_free(cluster: IpNet, mask: u8, taken: impl Fn(&IpNet) -> bool) -> Option<IpNet> {
    match cluster.addr() {
        IpAddr::V4(_) | IpAddr::V6(_) => cluster.subnets(mask).ok()?.find(|range| !taken(range)),
    }
}
