//! Likes nodes where CPU and memory would be used to the same degree.

use crate::cluster::Cluster;
use crate::nodes::NodeIndex;
use crate::plugin::{Plugin, Score};
use crate::resources::Resource;
use crate::shape::Shape;

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin { score: Some(Score { weight: 1, of: score }), ..Plugin::named("NodeResourcesBalancedAllocation", 20) }
}

fn score(cluster: &Cluster, shape: &Shape, nodes: &[NodeIndex], scores: &mut [i64]) -> bool {
    let asks = |resource| shape.requests.amounts.iter().find(|(one, _)| *one == resource).map_or(0, |(_, amount)| *amount);
    let asked = [asks(Resource::CPU), asks(Resource::MEMORY)];
    if asked == [0, 0] {
        return false;
    }
    for (score, node) in scores.iter_mut().zip(nodes) {
        let part = |which: usize, resource| {
            let offered = cluster.nodes.allocatable(*node, resource);
            (offered > 0).then(|| ((cluster.nodes.requested(*node, resource) + asked[which]) as f64 / offered as f64).min(1.0))
        };
        let spread = match (part(0, Resource::CPU), part(1, Resource::MEMORY)) {
            (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
            _ => 0.0,
        };
        *score = ((1.0 - spread) * 100.0) as i64;
    }
    true
}
