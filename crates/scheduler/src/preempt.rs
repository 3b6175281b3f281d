//! Preemption: which pods must go so that a more important one can run, and on which node that hurts least.
//!
//! Victims are tried on the picture itself: they are taken off a node, the filters are asked, and all are put back.
//! So whatever filters know (ports, affinity, spread) counts, without a second copy of the rules.

use std::cmp::Reverse;
use std::collections::HashSet;

use api::label_selector::LabelSelector;

use crate::cluster::{Cluster, PodIndex};
use crate::decide::{Decider, Refusal};
use crate::nodes::NodeIndex;
use crate::shape::Shape;
use crate::verdict::{Reason, Tally, Verdict};

const NO_VICTIMS: Reason = Reason::Text("No preemption victims found for incoming pod");
const NO_HELP: Reason = Reason::Text("Preemption is not helpful for scheduling");
/// Candidates that are enough to choose among: a tenth of the nodes, but at least this many.
const ENOUGH: usize = 100;

/// A disruption budget.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Namespace.
    pub namespace: Box<str>,
    /// Its pods.
    pub selector: LabelSelector,
    /// Pods that may still go.
    pub allowed: i32,
    /// Names of pods that are already counted.
    pub disrupted: HashSet<Box<str>>,
}

/// Room for a pod, and what it costs.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The node.
    pub node: NodeIndex,
    /// Who must go, the most important first.
    pub victims: Vec<PodIndex>,
    /// How many of them their budgets protect.
    pub violations: usize,
}

impl Decider {
    /// Finds victims for a pod that was refused.
    ///
    /// # Errors
    /// What people read when there are none.
    pub fn preempt(&self, cluster: &mut Cluster, pod: PodIndex, refusal: &Refusal, budgets: &[Budget]) -> Result<Candidate, String> {
        let shape = cluster.pod(pod).shape.clone();
        if let Some(why) = not_eligible(cluster, pod, &shape, refusal) {
            return Err(why.into());
        }
        let mut tally = Tally::default();
        (refusal.curable.len()..refusal.nodes).for_each(|_| tally.add(NO_HELP));
        let enough = (refusal.nodes / 10).max(ENOUGH);
        let mut candidates: Vec<Candidate> = Vec::new();
        for node in &refusal.curable {
            match self.victims(cluster, pod, &shape, *node, budgets) {
                Ok(candidate) => candidates.push(candidate),
                Err(reasons) => reasons.iter().for_each(|reason| tally.add(*reason)),
            }
            if candidates.len() >= enough {
                break;
            }
        }
        match candidates.iter().enumerate().min_by_key(|(place, candidate)| cost(cluster, candidate, *place)) {
            Some((_, best)) => Ok(best.clone()),
            None => Err(tally.message(cluster, refusal.nodes)),
        }
    }

    /// The fewest and least important pods of a node that must go. The picture is afterwards as it was.
    fn victims(
        &self,
        cluster: &mut Cluster,
        pod: PodIndex,
        shape: &Shape,
        node: NodeIndex,
        budgets: &[Budget],
    ) -> Result<Candidate, Vec<Reason>> {
        let priority = shape.priority();
        let mut lower: Vec<PodIndex> =
            cluster.nodes.pods[node.at()].iter().copied().filter(|other| cluster.pod(*other).shape.priority() < priority).collect();
        if lower.is_empty() {
            return Err(vec![NO_VICTIMS]);
        }
        lower.sort_by_cached_key(|victim| importance(cluster, *victim));
        for victim in &lower {
            cluster.displace(*victim);
        }
        if let Err(verdict) = self.fits(cluster, pod, shape, node) {
            lower.iter().for_each(|victim| cluster.place(*victim, node));
            return Err(match verdict {
                Verdict::Fits => Vec::new(),
                Verdict::Refused(reasons) | Verdict::Hopeless(reasons) => reasons.into_vec(),
            });
        }
        // Pods that a budget protects are spared first, then the more important ones.
        let (protected, free) = split_by_budget(cluster, &lower, budgets);
        let (mut victims, mut violations) = (Vec::new(), 0);
        for (list, is_protected) in [(protected, true), (free, false)] {
            for victim in list {
                cluster.place(victim, node);
                if self.fits(cluster, pod, shape, node).is_err() {
                    cluster.displace(victim);
                    victims.push(victim);
                    violations += usize::from(is_protected);
                }
            }
        }
        victims.iter().for_each(|victim| cluster.place(*victim, node));
        victims.sort_by_cached_key(|victim| importance(cluster, *victim));
        if victims.is_empty() { Err(vec![NO_VICTIMS]) } else { Ok(Candidate { node, victims, violations }) }
    }
}

fn not_eligible(cluster: &Cluster, pod: PodIndex, shape: &Shape, refusal: &Refusal) -> Option<&'static str> {
    if &*shape.key.spec.preemption_policy == "Never" {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let node = cluster.pod(pod).nominated.as_ref().and_then(|name| cluster.nodes.find(name))?;
    let leaving = |other: &PodIndex| {
        let other = cluster.pod(*other);
        other.preempted && other.shape.priority() < shape.priority()
    };
    let waits = refusal.curable.contains(&node) && cluster.nodes.pods[node.at()].iter().any(leaving);
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Sorts the more important first: higher priority, then longer running.
fn importance(cluster: &Cluster, pod: PodIndex) -> (Reverse<i32>, Box<str>) {
    let pod = cluster.pod(pod);
    // A pod that has not started is younger than all that have.
    let start = if pod.start.is_empty() { "~".into() } else { pod.start.clone() };
    (Reverse(pod.shape.priority()), start)
}

/// Pods whose budgets do not allow them to go, and the others; each in the order given.
fn split_by_budget(cluster: &Cluster, pods: &[PodIndex], budgets: &[Budget]) -> (Vec<PodIndex>, Vec<PodIndex>) {
    let mut allowed: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.iter().partition(|pod| {
        let pod = cluster.pod(**pod);
        let key = &pod.shape.key;
        let mut violates = false;
        for (budget, allowed) in budgets.iter().zip(&mut allowed) {
            let counts = budget.namespace == key.namespace
                && !key.labels.is_empty()
                && budget.selector.matches_sorted(&key.labels)
                && !budget.disrupted.contains(pod.names().1);
            if counts {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    })
}

/// What people lose, the least first: budgets, the highest priority, all priorities, pods, and the age of the most important.
fn cost(cluster: &Cluster, candidate: &Candidate, place: usize) -> (usize, i32, i64, usize, Reverse<Box<str>>, usize) {
    let priorities = || candidate.victims.iter().map(|victim| cluster.pod(*victim).shape.priority());
    let highest = priorities().max().unwrap_or(i32::MIN);
    let sum = priorities().map(|priority| i64::from(priority) + i64::from(i32::MAX) + 1).sum();
    let oldest = candidate
        .victims
        .iter()
        .filter(|victim| cluster.pod(**victim).shape.priority() == highest)
        .map(|victim| importance(cluster, *victim).1)
        .min();
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(oldest.unwrap_or_default()), place)
}
