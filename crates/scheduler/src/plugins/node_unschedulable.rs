//! Keeps pods off nodes that somebody cordoned.

use crate::cluster::Cluster;
use crate::nodes::{Effect, Taint};
use crate::plugin::{Filtering, Happenings, Plugin};
use crate::plugins::taint_toleration::tolerates;
use crate::shape::Shape;
use crate::verdict::Verdict;

/// The taint that cordoned nodes have beside the field; who tolerates it tolerates the field.
const TAINT: &str = "node.kubernetes.io/unschedulable";
const REFUSAL: &str = "node(s) were unschedulable";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin { filter: Some(filter), wakes: Happenings::NODE_ADDED.and(Happenings::NODE_TAINTS), ..Plugin::named("NodeUnschedulable", 0) }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    let tolerated = match (cluster.symbols.find(TAINT), cluster.symbols.find("")) {
        (Some(key), Some(value)) => tolerates(cluster, shape, &Taint { key, value, effect: Effect::NoSchedule }),
        _ => shape.tolerations.iter().any(|one| one.key.is_none() && one.value.is_none() && one.effect.is_none_or(|effect| effect == Effect::NoSchedule)),
    };
    if tolerated {
        return Filtering::Skip;
    }
    Filtering::Ask(Box::new(|node| Verdict::fits_or_hopeless(!cluster.nodes.is_unschedulable(node), REFUSAL)))
}
