//! A host port is had by one pod of a node.

use crate::cluster::Cluster;
use crate::plugin::{Filtering, Happenings, Plugin};
use crate::shape::Shape;
use crate::verdict::Verdict;

const REFUSAL: &str = "node(s) didn't have free ports for the requested pod ports";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin { filter: Some(filter), wakes: Happenings::NODE_ADDED.and(Happenings::POD_GONE), ..Plugin::named("NodePorts", 4) }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    if shape.ports.is_empty() {
        return Filtering::Skip;
    }
    Filtering::Ask(Box::new(|node| {
        let taken = &cluster.nodes.ports[node.at()];
        let conflict = shape.ports.iter().any(|port| taken.iter().any(|other| port.conflicts(other)));
        if conflict { Verdict::refused(REFUSAL) } else { Verdict::Fits }
    }))
}
