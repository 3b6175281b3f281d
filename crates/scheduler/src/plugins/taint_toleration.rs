//! Keeps pods off nodes with taints that they do not tolerate.

use std::cmp::Ordering;

use crate::cluster::Cluster;
use crate::nodes::{Effect, NodeIndex, Taint};
use crate::plugin::{Filtering, Happenings, Plugin, Score, stretch};
use crate::shape::{Shape, Toleration};
use crate::verdict::Verdict;

const REFUSAL: &str = "node(s) had untolerated taint(s)";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(filter),
        score: Some(Score { weight: 3, of: score }),
        wakes: Happenings::NODE_ADDED.and(Happenings::NODE_TAINTS),
        ..Plugin::named("TaintToleration", 2)
    }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    Filtering::Ask(Box::new(|node| Verdict::fits_or_hopeless(allows(cluster, shape, node), REFUSAL)))
}

/// Whether a pod tolerates every taint of a node that keeps pods out.
pub fn allows(cluster: &Cluster, shape: &Shape, node: NodeIndex) -> bool {
    cluster.nodes.taints(node).iter().all(|taint| taint.effect == Effect::PreferNoSchedule || tolerates(cluster, shape, taint))
}

/// Whether a pod tolerates a taint.
pub fn tolerates(cluster: &Cluster, shape: &Shape, taint: &Taint) -> bool {
    shape.tolerations.iter().any(|toleration| covers(cluster, toleration, taint))
}

fn covers(cluster: &Cluster, toleration: &Toleration, taint: &Taint) -> bool {
    let ordered = |(bound, ordering): (i64, Ordering)| {
        cluster.symbols.text(taint.value).parse::<i64>().is_ok_and(|value| value.cmp(&bound) == ordering)
    };
    toleration.key.is_none_or(|key| key == taint.key)
        && toleration.value.is_none_or(|value| value == taint.value)
        && toleration.effect.is_none_or(|effect| effect == taint.effect)
        && toleration.order.is_none_or(ordered)
}

fn score(cluster: &Cluster, shape: &Shape, nodes: &[NodeIndex], scores: &mut [i64]) -> bool {
    let disliked = |taint: &&Taint| taint.effect == Effect::PreferNoSchedule && !tolerates(cluster, shape, taint);
    let mut any = false;
    for (score, node) in scores.iter_mut().zip(nodes) {
        *score = cluster.nodes.taints(*node).iter().filter(disliked).count() as i64;
        any |= *score > 0;
    }
    if any {
        stretch(scores, true);
    }
    any
}
