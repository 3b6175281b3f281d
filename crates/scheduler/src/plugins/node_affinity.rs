//! `nodeSelector` and node affinity: which nodes a pod may run on, and which it likes.

use std::collections::HashSet;

use crate::cluster::Cluster;
use crate::nodes::NodeIndex;
use crate::plugin::{Filtering, Happenings, Plugin, Score, stretch};
use crate::shape::Shape;
use crate::verdict::Verdict;

const REFUSAL: &str = "node(s) didn't match Pod's node affinity/selector";
/// Said of nodes that a pod which names its nodes does not name.
const NOT_NAMED: &str = "node(s) didn't satisfy plugin(s) [NodeAffinity]";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(filter),
        score: Some(Score { weight: 2, of: score }),
        wakes: Happenings::NODE_ADDED.and(Happenings::NODE_LABELS),
        ..Plugin::named("NodeAffinity", 3)
    }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    if shape.node_selector.is_none() && shape.node_required.is_none() {
        return Filtering::Skip;
    }
    let named: Option<HashSet<NodeIndex>> = shape
        .node_required
        .as_ref()
        .and_then(|terms| terms.names())
        .map(|names| names.iter().filter_map(|name| cluster.nodes.find(name)).collect());
    Filtering::Ask(Box::new(move |node| {
        if named.as_ref().is_some_and(|named| !named.contains(&node)) {
            return Verdict::hopeless(NOT_NAMED);
        }
        Verdict::fits_or_hopeless(allows(cluster, shape, node), REFUSAL)
    }))
}

/// Whether selector and required affinity of a pod hold for a node.
pub fn allows(cluster: &Cluster, shape: &Shape, node: NodeIndex) -> bool {
    shape.node_selector.as_ref().is_none_or(|term| term.holds(&cluster.nodes, &cluster.symbols, node))
        && shape.node_required.as_ref().is_none_or(|terms| terms.hold(&cluster.nodes, &cluster.symbols, node))
}

fn score(cluster: &Cluster, shape: &Shape, nodes: &[NodeIndex], scores: &mut [i64]) -> bool {
    if shape.node_preferred.is_empty() {
        return false;
    }
    for (score, node) in scores.iter_mut().zip(nodes) {
        let holding = shape.node_preferred.iter().filter(|(_, term)| term.holds(&cluster.nodes, &cluster.symbols, *node));
        *score = holding.map(|(weight, _)| weight).sum();
    }
    stretch(scores, false);
    true
}
