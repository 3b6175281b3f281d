//! What a DaemonSet does next on each node, as pure functions: which pods to make and to remove, and what to report.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSetSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::rollout;

/// A pod of the set on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DaemonPod {
    /// Its place in the list of pods.
    pub(crate) place: usize,
    /// Of the newest template.
    pub(crate) new: bool,
    pub(crate) ready: bool,
    pub(crate) available: bool,
    pub(crate) leaving: bool,
    pub(crate) failed: bool,
    pub(crate) succeeded: bool,
    /// When it was made; the order counts.
    pub(crate) created: u64,
}

/// A node and what it means to the set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// Whether a pod shall run there.
    pub(crate) run: bool,
    /// Whether a pod that runs there may stay.
    pub(crate) stay: bool,
    /// Pods there, oldest first.
    pub(crate) pods: Vec<DaemonPod>,
}

/// Nodes that get a pod, and pods that go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<String>,
    pub(crate) delete: Vec<usize>,
}

/// The number of pods that may be too many and too few during an update.
pub(crate) fn limits(spec: &DaemonSetSpec, desired: i32) -> (i32, i32) {
    let rolling = spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
    let surge = rolling.max_surge.as_ref().map_or(0, |value| rollout::resolve(Some(value), desired, true));
    let unavailable = rollout::resolve(Some(rolling.max_unavailable.as_ref().unwrap_or(&IntOrString::Int(1))), desired, true);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// One pod on every node that wants one.
pub(crate) fn spread(places: &BTreeMap<String, Place>, surge: bool) -> Plan {
    let mut plan = Plan::default();
    for (node, place) in places {
        if place.run && place.pods.is_empty() {
            plan.create.push(node.clone());
        } else if place.stay {
            plan.delete.extend(place.pods.iter().filter(|pod| !pod.leaving && (pod.failed || pod.succeeded)).map(|pod| pod.place));
            let running: Vec<&DaemonPod> = place.pods.iter().filter(|pod| !pod.leaving && !pod.failed && !pod.succeeded).collect();
            plan.delete.extend(if surge { surplus_of_two(&running) } else { running.iter().skip(1).map(|pod| pod.place).collect() });
        } else {
            plan.delete.extend(place.pods.iter().filter(|pod| !pod.leaving).map(|pod| pod.place));
        }
    }
    plan
}

/// While updates surge, an old and a new pod may be on a node; the old one goes when it is not ready or the new one is available.
fn surplus_of_two(running: &[&DaemonPod]) -> Vec<usize> {
    let new = running.iter().find(|pod| pod.new);
    let old = running.iter().find(|pod| !pod.new);
    let keep = [new, old].map(|pod| pod.map(|pod| pod.place));
    let mut delete: Vec<usize> = running.iter().map(|pod| pod.place).filter(|place| !keep.contains(&Some(*place))).collect();
    if let (Some(new), Some(old)) = (new, old) {
        if !old.ready || new.available {
            delete.push(old.place);
        }
    }
    delete
}

/// The old and the new pod of a node; `None` if there are several of one sort.
fn pair(place: &Place) -> Option<(Option<&DaemonPod>, Option<&DaemonPod>)> {
    let alive = || place.pods.iter().filter(|pod| !pod.leaving);
    let (mut old, mut new) = (alive().filter(|pod| !pod.new), alive().filter(|pod| pod.new));
    let pair = (old.next(), new.next());
    (old.next().is_none() && new.next().is_none()).then_some(pair)
}

/// One step of a rolling update.
pub(crate) fn roll(places: &BTreeMap<String, Place>, surge: i32, unavailable: i32) -> Plan {
    let places = || places.iter().filter(|(_, place)| !place.pods.is_empty());
    let mut plan = Plan::default();
    let mut candidates = Vec::new();
    let mut busy = 0;
    if surge == 0 {
        for (_, place) in places() {
            match pair(place) {
                None | Some((None, None) | (Some(_), Some(_))) => busy += 1,
                Some((None, Some(new))) => busy += i32::from(!new.available),
                Some((Some(old), None)) if !old.available => plan.delete.push(old.place),
                Some((Some(old), None)) => candidates.push(old.place),
            }
        }
        let room = (unavailable - busy).max(0) as usize;
        plan.delete.extend(candidates.into_iter().take(room));
        return plan;
    }
    let mut nodes = Vec::new();
    for (node, place) in places() {
        match pair(place) {
            None => busy += 1,
            Some((None, _)) => {}
            Some((Some(old), None)) if !old.available => plan.create.push(node.clone()),
            Some((Some(_), None)) => nodes.push(node.clone()),
            Some((Some(_), Some(new))) if !new.available => busy += 1,
            Some((Some(old), Some(_))) => plan.delete.push(old.place),
        }
    }
    plan.create.extend(nodes.into_iter().take((surge - busy).max(0) as usize));
    plan
}

/// What the status says.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) desired: i32,
    pub(crate) current: i32,
    pub(crate) misscheduled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) updated: i32,
}

/// Counts the oldest pod of every node.
pub(crate) fn count(places: &BTreeMap<String, Place>) -> Counts {
    let mut counts = Counts::default();
    for place in places.values() {
        let first = place.pods.first();
        if !place.run {
            counts.misscheduled += i32::from(first.is_some());
            continue;
        }
        counts.desired += 1;
        if let Some(pod) = first {
            counts.current += 1;
            counts.ready += i32::from(pod.ready);
            counts.available += i32::from(pod.available);
            counts.updated += i32::from(pod.new);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes as `run-stay:pods`; `+` a node that runs, `~` one where pods may stay, `-` none. Pods: `o`/`n` old or new and not
    /// available, upper case available, `f` failed, `x` leaving.
    fn places(text: &str) -> BTreeMap<String, Place> {
        let mut number = 0;
        let each = text.split_whitespace().enumerate().map(|(index, word)| {
            let pods = word[1..].chars().map(|letter| {
                number += 1;
                let kind = letter.to_ascii_lowercase();
                let well = letter.is_ascii_uppercase();
                DaemonPod {
                    place: number - 1,
                    new: kind == 'n',
                    ready: well,
                    available: well,
                    leaving: kind == 'x',
                    failed: kind == 'f',
                    succeeded: false,
                    created: number as u64,
                }
            });
            (format!("n{index}"), Place { run: word.starts_with('+'), stay: !word.starts_with('-'), pods: pods.collect() })
        });
        each.collect()
    }

    fn text(plan: &Plan) -> String {
        format!("{} {:?}", plan.create.join(","), plan.delete)
    }

    #[test]
    fn one_pod_a_node() {
        for (nodes, surge, wanted) in [
            ("+ +N ~", false, "n0 []"),
            ("+x", false, " []"),
            ("-N ~N", false, " [0]"),
            ("+f +NN", false, " [0, 2]"),
            ("+On", true, " []"),
            ("+ON", true, " [0]"),
            ("+on", true, " [0]"),
        ] {
            assert_eq!(text(&spread(&places(nodes), surge)), wanted, "{nodes}");
        }
    }

    #[test]
    fn updates_keep_the_budget() {
        for (nodes, surge, unavailable, wanted) in [
            ("+O +O +O", 0, 1, " [0]"),
            ("+n +O +O", 0, 1, " []"),
            ("+o +O +n", 0, 1, " [0]"),
            ("+x +O +O", 0, 1, " []"),
            ("+O +O +N", 0, 2, " [0, 1]"),
            ("+O +O", 1, 0, "n0 []"),
            ("+On +O", 1, 0, " []"),
            ("+ON +O", 1, 0, "n1 [0]"),
            ("+o +On", 1, 0, "n0 []"),
        ] {
            assert_eq!(text(&roll(&places(nodes), surge, unavailable)), wanted, "{nodes}");
        }
    }

    #[test]
    fn counts() {
        let found = count(&places("+N +o + ~N"));
        assert_eq!(found, Counts { desired: 3, current: 2, misscheduled: 1, ready: 1, available: 1, updated: 1 });
    }
}
