//! Spreads equal pods over zones, hosts or any other domains.

use crate::cluster::Cluster;
use crate::nodes::NodeIndex;
use crate::plugin::{Filtering, Happenings, Plugin, Score};
use crate::plugins::{node_affinity, taint_toleration};
use crate::shape::{Shape, Spread};
use crate::topology::KeyIndex;
use crate::verdict::Verdict;

const REFUSAL: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(filter),
        score: Some(Score { weight: 2, of: score }),
        wakes: Happenings::NODE_ADDED
            .and(Happenings::NODE_LABELS)
            .and(Happenings::NODE_TAINTS)
            .and(Happenings::POD_BOUND)
            .and(Happenings::POD_GONE)
            .and(Happenings::POD_LABELS),
        ..Plugin::named("PodTopologySpread", 9)
    }
}

/// Pods by domain on the nodes that count for a constraint.
struct Domains {
    /// `None` for domains without a node that counts.
    counts: Vec<Option<i64>>,
}

impl Domains {
    fn of(cluster: &Cluster, shape: &Shape, spread: &Spread, keys: &[KeyIndex]) -> Domains {
        let topology = &cluster.topology;
        let counter = topology.counter(spread.counter);
        let selective = spread.honor_affinity && (shape.node_selector.is_some() || shape.node_required.is_some());
        let nodes = cluster.nodes.alive().len();
        if !selective && !spread.honor_taints && keys.iter().all(|key| topology.labelled(*key) == nodes) {
            // Every node counts, so that the counter has the answer.
            let sizes = topology.sizes(spread.key).iter().enumerate();
            return Domains {
                counts: sizes.map(|(domain, size)| (*size > 0).then(|| i64::from(counter.in_domain(domain as u32)))).collect(),
            };
        }
        let mut counts = vec![None; topology.sizes(spread.key).len()];
        for node in cluster.nodes.alive() {
            if !topology.has_all(keys, *node)
                || (selective && !node_affinity::allows(cluster, shape, *node))
                || (spread.honor_taints && !taint_toleration::allows(cluster, shape, *node))
            {
                continue;
            }
            if let Some(domain) = topology.domain(spread.key, *node) {
                *counts[domain as usize].get_or_insert(0) += i64::from(counter.on_node(*node));
            }
        }
        Domains { counts }
    }

    fn len(&self) -> usize {
        self.counts.iter().flatten().count()
    }

    /// The least count, 0 while there are too few domains.
    fn least(&self, min_domains: usize) -> i64 {
        if self.len() < min_domains {
            return 0;
        }
        self.counts.iter().flatten().copied().min().unwrap_or(0)
    }

    fn count(&self, domain: u32) -> i64 {
        self.counts[domain as usize].unwrap_or(0)
    }
}

fn filter<'a>(cluster: &'a Cluster, shape: &'a Shape) -> Filtering<'a> {
    if shape.spread.is_empty() {
        return Filtering::Skip;
    }
    let keys: Vec<KeyIndex> = shape.spread.iter().map(|spread| spread.key).collect();
    let constraints: Vec<(&Spread, Domains, i64)> = shape
        .spread
        .iter()
        .map(|spread| {
            let domains = Domains::of(cluster, shape, spread, &keys);
            let least = domains.least(spread.min_domains);
            (spread, domains, least)
        })
        .collect();
    Filtering::Ask(Box::new(move |node| {
        for (spread, domains, least) in &constraints {
            let Some(domain) = cluster.topology.domain(spread.key, node) else {
                return Verdict::hopeless(NO_LABEL);
            };
            if domains.count(domain) + i64::from(spread.counts_itself) - least > spread.max_skew {
                return Verdict::refused(REFUSAL);
            }
        }
        Verdict::Fits
    }))
}

fn score(cluster: &Cluster, shape: &Shape, nodes: &[NodeIndex], scores: &mut [i64]) -> bool {
    if shape.spread_liked.is_empty() {
        return false;
    }
    let topology = &cluster.topology;
    let keys: Vec<KeyIndex> = shape.spread_liked.iter().map(|spread| spread.key).collect();
    let counted: Vec<bool> = nodes.iter().map(|node| topology.has_all(&keys, *node)).collect();
    let mut sums = vec![0.0; nodes.len()];
    for spread in &shape.spread_liked {
        let domains = Domains::of(cluster, shape, spread, &keys);
        let mut seen = std::collections::HashSet::new();
        seen.extend(nodes.iter().zip(&counted).filter(|(_, counted)| **counted).filter_map(|(node, _)| topology.domain(spread.key, *node)));
        // Few domains count less than many, else zones would outweigh hosts.
        let weight = (seen.len() as f64 + 2.0).ln();
        let counter = topology.counter(spread.counter);
        for ((sum, node), counted) in sums.iter_mut().zip(nodes).zip(&counted) {
            if let (true, Some(domain)) = (*counted, topology.domain(spread.key, *node)) {
                let pods = if spread.by_host { i64::from(counter.on_node(*node)) } else { domains.count(domain) };
                *sum += pods as f64 * weight + (spread.max_skew - 1) as f64;
            }
        }
    }
    let raw: Vec<i64> = sums.iter().map(|sum| sum.round() as i64).collect();
    let valid = || raw.iter().zip(&counted).filter(|(_, counted)| **counted).map(|(score, _)| *score);
    let (min, max) = (valid().min().unwrap_or(0), valid().max().unwrap_or(0));
    for ((score, raw), counted) in scores.iter_mut().zip(&raw).zip(&counted) {
        *score = match (*counted, max) {
            (false, _) => 0,
            (true, 0) => 100,
            (true, max) => 100 * (max + min - raw) / max,
        };
    }
    true
}
