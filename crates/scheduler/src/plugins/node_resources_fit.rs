//! The sum of what the pods of a node ask for never exceeds what the node offers; emptier nodes are liked.

use smallvec::SmallVec;

use crate::cluster::Cluster;
use crate::nodes::NodeIndex;
use crate::plugin::{Filtering, Happenings, Plugin, Score};
use crate::resources::Resource;
use crate::shape::Shape;
use crate::verdict::{Reason, Verdict};

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(filter),
        score: Some(Score { weight: 1, of: score }),
        wakes: Happenings::NODE_ADDED.and(Happenings::NODE_RESOURCES).and(Happenings::POD_GONE),
        ..Plugin::named("NodeResourcesFit", 5)
    }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    Filtering::Ask(Box::new(|node| verdict(cluster, shape, node)))
}

fn verdict(cluster: &Cluster, shape: &Shape, node: NodeIndex) -> Verdict {
    let mut missing: SmallVec<[Reason; 1]> = SmallVec::new();
    let mut hopeless = false;
    for (resource, amount) in &shape.requests.amounts {
        let offered = cluster.nodes.allocatable(node, *resource);
        if *amount > offered - cluster.nodes.requested(node, *resource) {
            missing.push(Reason::Insufficient(*resource));
            hopeless |= *amount > offered;
        }
    }
    match (missing.is_empty(), hopeless) {
        (true, _) => Verdict::Fits,
        (false, false) => Verdict::Refused(missing),
        (false, true) => Verdict::Hopeless(missing),
    }
}

fn score(cluster: &Cluster, shape: &Shape, nodes: &[NodeIndex], scores: &mut [i64]) -> bool {
    for (score, node) in scores.iter_mut().zip(nodes) {
        let (mut sum, mut weight) = (0, 0);
        for (which, resource) in [Resource::CPU, Resource::MEMORY].into_iter().enumerate() {
            let offered = cluster.nodes.allocatable(*node, resource);
            if offered > 0 {
                let asked = cluster.nodes.assumed(*node, which) + shape.requests.assumed[which];
                sum += (offered - asked).max(0) * 100 / offered;
                weight += 1;
            }
        }
        *score = if weight == 0 { 0 } else { sum / weight };
    }
    true
}
