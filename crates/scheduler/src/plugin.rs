//! What a plugin is: a filter that answers for nodes, a score that orders them, and what may change its mind.

use crate::cluster::Cluster;
use crate::nodes::NodeIndex;
use crate::shape::Shape;
use crate::verdict::Verdict;

/// One aspect of placement. One file exports one.
pub struct Plugin {
    /// Name as in the API, for example `NodeResourcesFit`.
    pub name: &'static str,
    /// Filters ask in this order. The first refusal is the one that people read, so the order is the real scheduler's.
    pub turn: u8,
    /// Prepares the filter for a pod.
    pub filter: Option<for<'a> fn(&'a Cluster, &'a Shape) -> Filtering<'a>>,
    /// Orders nodes.
    pub score: Option<Score>,
    /// What may make a pod fit that the filter refused.
    pub wakes: Happenings,
}

impl Plugin {
    /// A plugin that does nothing yet.
    pub const fn named(name: &'static str, turn: u8) -> Plugin {
        Plugin { name, turn, filter: None, score: None, wakes: Happenings::NONE }
    }
}

/// Answers for a node.
pub type Filter<'a> = Box<dyn Fn(NodeIndex) -> Verdict + 'a>;

/// What a filter has to say about a pod.
pub enum Filtering<'a> {
    /// Nothing; every node fits.
    Skip,
    /// No node fits, for a reason that lies in the pod.
    Nowhere(String),
    /// It depends on the node.
    Ask(Filter<'a>),
}

/// A score with its weight.
pub struct Score {
    /// Weight in the sum.
    pub weight: i64,
    /// Fills in 0 to 100 for each feasible node; false if all are equal to it.
    pub of: fn(&Cluster, &Shape, &[NodeIndex], &mut [i64]) -> bool,
}

/// A set of things that happen in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Happenings(pub u16);

impl Happenings {
    /// Nothing.
    pub const NONE: Happenings = Happenings(0);
    /// A node came.
    pub const NODE_ADDED: Happenings = Happenings(1);
    /// A node offers other amounts.
    pub const NODE_RESOURCES: Happenings = Happenings(2);
    /// Labels of a node changed.
    pub const NODE_LABELS: Happenings = Happenings(4);
    /// Taints of a node changed, or whether it takes pods.
    pub const NODE_TAINTS: Happenings = Happenings(8);
    /// A pod was bound.
    pub const POD_BOUND: Happenings = Happenings(16);
    /// A bound pod went, or asks for less.
    pub const POD_GONE: Happenings = Happenings(32);
    /// Labels of a bound pod changed.
    pub const POD_LABELS: Happenings = Happenings(64);
    /// A claim, volume or class changed.
    pub const VOLUMES: Happenings = Happenings(128);
    /// Labels of a namespace changed.
    pub const NAMESPACE: Happenings = Happenings(256);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Happenings) -> Happenings {
        Happenings(self.0 | other.0)
    }

    /// Whether they have one in common.
    pub const fn meets(self, other: Happenings) -> bool {
        self.0 & other.0 != 0
    }
}

/// Stretches scores so that the best has 100; `reverse` makes the smallest the best.
pub fn stretch(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let part = if max == 0 { 0 } else { *score * 100 / max };
        *score = if reverse { 100 - part } else { part };
    }
}
