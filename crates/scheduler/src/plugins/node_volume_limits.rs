//! A node takes no more volumes of a driver than the driver says there.

use std::collections::HashSet;

use crate::cluster::Cluster;
use crate::nodes::NodeIndex;
use crate::plugin::{Filtering, Happenings, Plugin};
use crate::shape::Shape;
use crate::verdict::Verdict;

const REFUSAL: &str = "node(s) exceed max volume count";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(filter),
        wakes: Happenings::NODE_ADDED.and(Happenings::POD_GONE).and(Happenings::VOLUMES),
        ..Plugin::named("NodeVolumeLimits", 7)
    }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    let volumes = move |shape: &'a Shape| {
        let namespace = &shape.key.namespace;
        shape.claims.iter().filter_map(move |claim| cluster.volumes.attached_by(&format!("{namespace}/{claim}")))
    };
    let wanted: HashSet<_> = volumes(shape).collect();
    if wanted.is_empty() {
        return Filtering::Skip;
    }
    Filtering::Ask(Box::new(move |node: NodeIndex| {
        let name = cluster.nodes.name(node);
        if !cluster.drivers.is_limited(name) {
            return Verdict::Fits;
        }
        let there: HashSet<_> = cluster.nodes.pods[node.at()].iter().flat_map(|pod| volumes(&cluster.pod(*pod).shape)).collect();
        let exceeds = wanted.iter().any(|(driver, _)| {
            let new = wanted.iter().filter(|volume| volume.0 == *driver && !there.contains(*volume)).count();
            let old = there.iter().filter(|volume| volume.0 == *driver).count();
            new > 0 && cluster.drivers.limit(name, driver).is_some_and(|limit| old + new > limit as usize)
        });
        if exceeds { Verdict::refused(REFUSAL) } else { Verdict::Fits }
    }))
}
