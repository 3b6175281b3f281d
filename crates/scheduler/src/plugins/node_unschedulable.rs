//! Keeps pods off nodes that somebody cordoned.

use crate::cluster::Cluster;
use crate::nodes::{Effect, Taint};
use crate::plugin::{Filtering, Happenings, Plugin};
use crate::plugins::taint_toleration::tolerates;
use crate::shape::Shape;
use crate::symbols::Symbol;
use crate::verdict::Verdict;

/// The taint that cordoned nodes have beside the field; who tolerates it tolerates the field.
const TAINT: &str = "node.kubernetes.io/unschedulable";
const REFUSAL: &str = "node(s) were unschedulable";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin { filter: Some(filter), wakes: Happenings::NODE_ADDED.and(Happenings::NODE_TAINTS), ..Plugin::named("NodeUnschedulable", 0) }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    // Where nobody ever named the taint, only a toleration of everything covers it, which any key shows.
    let key = cluster.symbols.find(TAINT).unwrap_or(Symbol::EMPTY);
    if tolerates(cluster, shape, &Taint { key, value: Symbol::EMPTY, effect: Effect::NoSchedule }) {
        return Filtering::Skip;
    }
    Filtering::Ask(Box::new(|node| Verdict::fits_or_hopeless(!cluster.nodes.is_unschedulable(node), REFUSAL)))
}
