//! All that a scheduler knows and how it decides, without clock, threads or API: what tests and simulations drive.

use std::sync::Arc;
use std::time::Instant;

use crate::cluster::{Cluster, PodIndex};
use crate::decide::{Decider, Decision, Refusal};
use crate::follow::{Change, Follower};
use crate::nodes::NodeIndex;
use crate::plugin::Happenings;
use crate::preempt::{Budget, Candidate};
use crate::queue::Queue;

/// A scheduler without its surroundings.
pub struct Picture {
    /// Name of the scheduler.
    pub name: String,
    /// Nodes, pods and counters.
    pub cluster: Cluster,
    /// Pods that wait.
    pub queue: Queue,
    /// Makes decisions.
    pub decider: Decider,
}

/// What was decided about a pod.
#[derive(Debug)]
pub enum Outcome {
    /// It counts on this node from now on.
    Placed(NodeIndex),
    /// It is parked.
    Refused {
        /// What people read.
        message: String,
        /// Who must go so that it fits.
        candidate: Option<Candidate>,
    },
}

impl Picture {
    /// An empty picture of a scheduler with this name.
    pub fn new(name: &str) -> Picture {
        Picture { name: name.into(), cluster: Cluster::default(), queue: Queue::default(), decider: Decider::default() }
    }

    /// Follows a change of an object.
    pub fn follow(&mut self, change: &Change) {
        Follower { scheduler: &self.name, cluster: &mut self.cluster, queue: &mut self.queue }.follow(change);
    }

    /// The next pod to decide about.
    pub fn next(&mut self, now: Instant) -> Option<PodIndex> {
        self.queue.next(now)
    }

    /// Decides about a pod that `next` gave and counts it where it goes.
    pub fn decide(&mut self, pod: PodIndex, budgets: impl FnOnce() -> Vec<Budget>) -> Outcome {
        match self.decider.decide(&mut self.cluster, pod) {
            Decision::Place(node) => {
                let name = self.cluster.nodes.name(node).clone();
                self.cluster.nominate(pod, None);
                self.cluster.bind(pod, &name);
                self.cluster.pod_mut(pod).assumed = true;
                Outcome::Placed(node)
            }
            Decision::Nowhere(refusal) => self.refuse(pod, &refusal, budgets),
        }
    }

    /// Takes back a place that could not be written.
    pub fn take_back(&mut self, pod: PodIndex) {
        self.cluster.pod_mut(pod).assumed = false;
        self.cluster.unbind(pod);
        self.queue.retry(pod);
        self.queue.happened(Happenings::POD_GONE);
    }

    fn refuse(&mut self, pod: PodIndex, refusal: &Refusal, budgets: impl FnOnce() -> Vec<Budget>) -> Outcome {
        let refusing = self.decider.plugins().iter().enumerate().filter(|(number, _)| refusal.plugins & (1 << number) != 0);
        let wakes = refusing.fold(Happenings::NODE_ADDED, |all, (_, plugin)| all.and(plugin.wakes));
        self.queue.park(pod, wakes);
        let budgets = if refusal.curable.is_empty() { Vec::new() } else { budgets() };
        let mut message = refusal.message.clone();
        match self.decider.preempt(&mut self.cluster, pod, refusal, &budgets) {
            Ok(candidate) => return Outcome::Refused { message, candidate: Some(candidate) },
            Err(why) if refusal.nodes > 0 => message.push_str(&format!(" preemption: {why}")),
            Err(_) => {}
        }
        Outcome::Refused { message, candidate: None }
    }

    /// Gives up the reservation of a refused pod whose node no longer helps; whether there was one.
    pub fn unreserve(&mut self, pod: PodIndex) -> bool {
        let record = self.cluster.pod(pod);
        let Some(node) = record.nominated.as_ref() else {
            return false;
        };
        let leaving = |node| self.cluster.nodes.pods_on(node).iter().any(|other| self.cluster.pod(*other).preempted);
        let helps = self.cluster.nodes.find(node).is_some_and(leaving);
        if !helps {
            self.cluster.nominate(pod, None);
        }
        !helps
    }

    /// Reserves the node of a candidate for a pod; the name of the node, and less important pods that had it reserved.
    pub fn reserve(&mut self, pod: PodIndex, candidate: &Candidate) -> (Arc<str>, Vec<PodIndex>) {
        let node = self.cluster.nodes.name(candidate.node).clone();
        let priority = self.cluster.pod(pod).shape.priority();
        let lower = |other: &&PodIndex| {
            let other = self.cluster.pod(**other);
            other.nominated.as_ref() == Some(&node) && other.shape.priority() < priority
        };
        let losers: Vec<PodIndex> = self.cluster.nominated().iter().filter(lower).copied().collect();
        losers.iter().for_each(|loser| self.cluster.nominate(*loser, None));
        self.cluster.nominate(pod, Some(node.clone()));
        candidate.victims.iter().for_each(|victim| self.cluster.pod_mut(*victim).preempted = true);
        (node, losers)
    }

    /// A victim could not be made to go.
    pub fn spared(&mut self, uid: &str) {
        if let Some(victim) = self.cluster.find(uid) {
            self.cluster.pod_mut(victim).preempted = false;
            self.queue.happened(Happenings::POD_GONE);
        }
    }
}
