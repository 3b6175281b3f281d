//! The rounds: look at every signal, relieve the node of what nobody uses, else evict one pod and look again once it is gone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::EventKind;
use k8s_openapi::api::core::v1::Pod;

use super::limits::Rounds;
use super::rank::{Candidate, message, rank};
use super::threshold::in_force;
use super::usage::measure;
use super::{Condition, Observation, Order, Signal, Threshold, find};
use crate::Kubelet;
use crate::pods::message::Message;
use crate::pods::model;

/// Time between two rounds, as upstream's.
const ROUND: Duration = Duration::from_secs(10);
/// How long an evicted pod may take to be gone before the next round.
const CLEANUP: Duration = Duration::from_secs(30);
/// Seconds that an evicted pod has to stop where the node cannot wait.
const GRACE: i64 = 1;

/// A threshold that is met.
pub(crate) struct Met {
    signal: &'static Signal,
    threshold: Threshold,
    seen: Observation,
    /// It had to be met for a while, so that the node can wait.
    soft: bool,
}

/// Looks after the node until the future is dropped.
pub async fn run(kubelet: Arc<Kubelet>) {
    let mut rounds = Rounds::default();
    loop {
        let evicted = round(&kubelet, &mut rounds).await;
        if evicted.is_empty() {
            tokio::time::sleep(ROUND).await;
        } else {
            kubelet.pods.ended(&evicted, CLEANUP).await;
        }
    }
}

/// The UIDs of the pods that were told to go.
async fn round(kubelet: &Arc<Kubelet>, rounds: &mut Rounds) -> Vec<String> {
    let pods = kubelet.pods.pods();
    let mut gone = Vec::new();
    for (pod, message) in rounds.offenders(kubelet, &pods).await {
        gone.extend(evict(kubelet, &pod, message, GRACE, false));
    }
    if !gone.is_empty() {
        return gone;
    }
    let Some(first) = look(kubelet) else {
        return gone;
    };
    let resource = first.signal.resource;
    tracing::warn!(
        signal = first.signal.name,
        available = first.seen.available,
        capacity = first.seen.capacity,
        "attempting to reclaim {resource}"
    );
    kubelet.node_event(EventKind::Warning, "EvictionThresholdMet", &format!("Attempting to reclaim {resource}"));
    if first.signal.images_help {
        crate::images::remove_unused(kubelet, u64::MAX).await;
        if look(kubelet).is_none() {
            return gone;
        }
    }
    let files = matches!(first.signal.order, Order::Disk | Order::Inodes);
    let mut candidates = Vec::new();
    for pod in pods {
        let usage = measure(kubelet, &pod, files).await;
        candidates.push(Candidate { pod, usage });
    }
    rank(&mut candidates, first.signal.order);
    let told = candidates.iter().find_map(|candidate| {
        let text = message(resource, &first.threshold, &first.seen, candidate);
        let own = candidate.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let most = kubelet.config.eviction.max_pod_grace;
        let grace = if first.soft { own.map_or(most, |own| own.min(most)) } else { GRACE };
        evict(kubelet, &candidate.pod, text, grace, true)
    });
    gone.extend(told);
    gone
}

/// Tells a pod to go, unless the node cannot do without it. `disrupted`: the node is to blame, not the pod.
fn evict(kubelet: &Arc<Kubelet>, pod: &Pod, message: String, grace: i64, disrupted: bool) -> Option<String> {
    let uid = model::uid(pod);
    if model::is_critical(pod) || kubelet.pods.is_leaving(uid) {
        return None;
    }
    kubelet.event(pod, "", EventKind::Warning, "Evicted", &message);
    let order = Message::Evict { reason: "Evicted".into(), message, grace, disrupted };
    kubelet.pods.send(uid, order).then(|| uid.to_owned())
}

/// Looks at every signal and shows what the node is short of in its conditions; gives what is most urgent to act on.
pub(crate) fn look(kubelet: &Arc<Kubelet>) -> Option<Met> {
    let mut pressure = kubelet.pressure.lock();
    let (policy, mut met, mut times) = (&kubelet.config.eviction, Vec::new(), HashMap::new());
    let hard = in_force(&kubelet.config.eviction_hard).into_iter().map(|threshold| (threshold, None));
    for (threshold, grace) in hard.chain(policy.soft.iter().map(|(threshold, grace)| (*threshold, Some(*grace)))) {
        let Some(signal) = find(threshold.signal) else { continue };
        let Some(seen) = (signal.observe)(kubelet) else { continue };
        let (soft, key) = (grace.is_some(), (threshold.signal, grace.is_some()));
        // Once pods had to go, so much more must be left that they do not have to go again at once.
        let beyond = if pressure.was_acted_on(&key) { policy.reclaim_of(threshold.signal, seen.capacity) } else { 0 };
        if threshold.is_met(&seen, beyond) {
            times.insert(key, grace.unwrap_or_default());
            met.push(Met { signal, threshold, seen, soft });
        }
    }
    let short: BTreeSet<Condition> = met.iter().map(|met| met.signal.condition).collect();
    let now = Instant::now();
    let due = pressure.due(&times, now);
    let changes = pressure.note(&short, now);
    drop(pressure);
    for (condition, holds) in &changes {
        let reason = condition.event(*holds);
        kubelet.node_event(EventKind::Normal, reason, &format!("Node {} status is now: {reason}", kubelet.config.node_name));
    }
    if !changes.is_empty() {
        kubelet.status_changed.notify_one();
    }
    met.into_iter().filter(|met| due.contains(&(met.threshold.signal, met.soft))).min_by_key(|met| (met.signal.condition, met.soft))
}
