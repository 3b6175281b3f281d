//! Node IPAM: gives every node a range of pod addresses (`spec.podCIDR`) out of the cluster's.

use std::collections::{HashMap, HashSet};
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

use crate::node_view::NodeView;
use crate::{Config, Entry};

const NODES: ResourceId = ResourceId::new("", "v1", "nodes");

/// The controller.
pub fn controller(config: &Config) -> Entry {
    let controller = NodeIpam { cluster: config.cluster_cidr, mask: config.node_cidr_mask, ranges: Arc::default() };
    Entry { account: "node-controller", controller: Arc::new(controller) }
}

struct NodeIpam {
    cluster: Option<IpNet>,
    mask: u8,
    ranges: Arc<Mutex<Ranges>>,
}

/// The ranges of nodes, kept so that one more node costs the same in every cluster. A node keeps its range for life.
#[derive(Default)]
struct Ranges {
    by_node: HashMap<Box<str>, IpNet>,
    taken: HashSet<IpNet>,
}

impl Ranges {
    fn put(&mut self, node: &str, range: IpNet) {
        self.by_node.insert(node.into(), range);
        self.taken.insert(range);
    }

    fn remove(&mut self, node: &str) {
        if let Some(range) = self.by_node.remove(node) {
            self.taken.remove(&range);
        }
    }
}

fn range_of(node: &store::Entry) -> Option<IpNet> {
    NodeView::of(node).spec.pod_cidr.parse().ok()
}

#[async_trait]
impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let ranges = self.ranges.clone();
        vec![Watch::mapped(Selection::of::<Node>(), move |_, old, new, add| {
            let Some(entry) = new.or(old) else {
                return;
            };
            let mut ranges = ranges.lock();
            match new {
                None => ranges.remove(&entry.header.name),
                Some(_) if ranges.by_node.contains_key(&entry.header.name) => return,
                Some(new) => match range_of(new) {
                    Some(range) => ranges.put(&entry.header.name, range),
                    None => add(ObjectKey::of(entry)),
                },
            }
        })]
    }

    fn workers(&self) -> usize {
        1
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(cluster) = self.cluster else {
            return Ok(Next::Done);
        };
        let nodes = context.cache::<Node>();
        let Some(node) = nodes.get("", &key.name) else {
            return Ok(Next::Done);
        };
        if range_of(&node).is_some() {
            return Ok(Next::Done);
        }
        let range = {
            let mut ranges = self.ranges.lock();
            let known = ranges.by_node.get(&*key.name).copied();
            let Some(range) = known.or_else(|| first_free(cluster, self.mask, |range| ranges.taken.contains(range))) else {
                bail!("no range of length /{} is left in {cluster} for node {}", self.mask, key.name);
            };
            ranges.put(&key.name, range);
            range
        };
        let text = range.to_string();
        let patch = json!({"spec": {"podCIDR": text, "podCIDRs": [text]}});
        let result = context.client.patch(&NODES, "", &key.name, "", &PatchKind::Strategic, &patch).await;
        if result.is_err() {
            self.ranges.lock().remove(&key.name);
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
