//! Pods that want to be near each other or apart, seen from the new pod and from those that run.

use smallvec::SmallVec;

use crate::cluster::Cluster;
use crate::nodes::NodeIndex;
use crate::plugin::{Filtering, Happenings, Plugin, Score};
use crate::shape::Shape;
use crate::topology::{Counter, Role};
use crate::verdict::Verdict;

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const NOT_APART: &str = "node(s) didn't match pod anti-affinity rules";
const UNWANTED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(filter),
        score: Some(Score { weight: 2, of: score }),
        wakes: Happenings::NODE_ADDED
            .and(Happenings::NODE_LABELS)
            .and(Happenings::POD_BOUND)
            .and(Happenings::POD_GONE)
            .and(Happenings::POD_LABELS)
            .and(Happenings::NAMESPACE),
        ..Plugin::named("InterPodAffinity", 10)
    }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    let topology = &cluster.topology;
    let unwanted: SmallVec<[&Counter; 4]> =
        topology.held_about(shape.group).filter(|counter| counter.role() == Some(Role::RequiredAnti)).collect();
    let near: SmallVec<[&Counter; 2]> = shape.affinity.iter().map(|counter| topology.counter(*counter)).collect();
    let apart: SmallVec<[&Counter; 2]> =
        shape.anti_affinity.iter().map(|counter| topology.counter(*counter)).filter(|counter| counter.total > 0).collect();
    if unwanted.is_empty() && near.is_empty() && apart.is_empty() {
        return Filtering::Skip;
    }
    // The first pod of a set that wants to be together may start anywhere.
    let first = shape.likes_itself && near.iter().all(|counter| counter.total == 0);
    let there = move |counter: &Counter, node| topology.domain(counter.key, node).is_some_and(|domain| counter.in_domain(domain) > 0);
    Filtering::Ask(Box::new(move |node| {
        let near_enough = |counter: &&Counter| if first { topology.domain(counter.key, node).is_some() } else { there(counter, node) };
        if !near.iter().all(near_enough) {
            return Verdict::hopeless(NOT_NEAR);
        }
        if apart.iter().any(|counter| there(counter, node)) {
            return Verdict::refused(NOT_APART);
        }
        if unwanted.iter().any(|counter| there(counter, node)) {
            return Verdict::refused(UNWANTED);
        }
        Verdict::Fits
    }))
}

fn score(cluster: &Cluster, shape: &Shape, nodes: &[NodeIndex], scores: &mut [i64]) -> bool {
    let topology = &cluster.topology;
    let own =
        shape.preferred.iter().map(|(weight, counter)| (*weight, topology.counter(*counter))).filter(|(_, counter)| counter.total > 0);
    let mut weighted: SmallVec<[(i64, &Counter); 4]> = own.collect();
    weighted.extend(topology.held_about(shape.group).filter_map(|counter| match counter.role()? {
        Role::Likes(weight) => Some((i64::from(weight), counter)),
        Role::RequiredAnti => None,
    }));
    if weighted.is_empty() {
        return false;
    }
    for (score, node) in scores.iter_mut().zip(nodes) {
        let pods = |counter: &Counter| topology.domain(counter.key, *node).map_or(0, |domain| i64::from(counter.in_domain(domain)));
        *score = weighted.iter().map(|(weight, counter)| weight * pods(counter)).sum();
    }
    let (min, max) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
    for score in scores {
        *score = if max > min { (*score - min) * 100 / (max - min) } else { 0 };
    }
    max > min
}
