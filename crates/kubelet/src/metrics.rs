//! What the kubelet counts about its pods, under upstream's names where there are such: how long starts take and by which
//! step, what runs, and how probes end.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use client::metrics::{LONG_BOUNDS, Unit, escape, head, histogram, sample, single};
use parking_lot::Mutex;
use runtime::ContainerState;
use store::metrics::Histogram;

use crate::pods::message::ProbeKind;
use crate::probes::Outcome;

/// A step on the way to a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The image is there, pulled if need be.
    Image,
    /// The pod's volumes are set up.
    Volumes,
    /// Name spaces and the keeper of the pod.
    Sandbox,
    /// Link, addresses and rules of the pod.
    Network,
    /// The container is made: root file system, mounts, limits.
    Create,
    /// Its program runs.
    Start,
}

const PHASES: [(&str, Phase); 6] = [
    ("image", Phase::Image),
    ("volumes", Phase::Volumes),
    ("sandbox", Phase::Sandbox),
    ("network", Phase::Network),
    ("create", Phase::Create),
    ("start", Phase::Start),
];

/// What a worker does in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its first one.
    Create,
    /// It brings the pod closer to what is wanted.
    Sync,
    /// It ends the pod.
    Kill,
}

const TURNS: [(&str, Turn); 3] = [("create", Turn::Create), ("sync", Turn::Sync), ("kill", Turn::Kill)];
const STATES: [(&str, ContainerState); 3] =
    [("created", ContainerState::Created), ("running", ContainerState::Running), ("exited", ContainerState::Exited)];
const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

/// A pod that has a worker.
#[derive(Default)]
struct Known {
    namespace: String,
    name: String,
    sandbox: bool,
    /// Containers by state.
    states: [u64; 3],
    /// Probes by container and kind, each by result.
    probes: BTreeMap<(String, &'static str), [u64; 3]>,
}

/// Counters of a kubelet.
pub struct Metrics {
    node: String,
    start: Histogram,
    phases: [Histogram; 6],
    turns: [Histogram; 3],
    pods: Mutex<HashMap<String, Known>>,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new(node: &str) -> Metrics {
        Metrics {
            node: node.to_owned(),
            start: Histogram::new(&LONG_BOUNDS),
            phases: std::array::from_fn(|_| Histogram::new(&LONG_BOUNDS)),
            turns: std::array::from_fn(|_| Histogram::new(&LONG_BOUNDS)),
            pods: Mutex::default(),
        }
    }

    /// A pod runs for the first time, this long after it was seen first.
    pub fn started(&self, took: Duration) {
        self.start.observe_duration(took);
    }

    /// A step was carried out.
    pub fn phase(&self, phase: Phase, took: Duration) {
        self.phases[phase as usize].observe_duration(took);
    }

    /// A worker took its turn.
    pub fn turn(&self, turn: Turn, took: Duration) {
        self.turns[turn as usize].observe_duration(took);
    }

    /// What a pod has now.
    pub fn note(&self, uid: &str, namespace: &str, name: &str, sandbox: bool, containers: impl Iterator<Item = ContainerState>) {
        let mut states = [0; 3];
        containers.for_each(|state| states[state as usize] += 1);
        let mut pods = self.pods.lock();
        if let Some(known) = pods.get_mut(uid) {
            (known.sandbox, known.states) = (sandbox, states);
        } else {
            let known = Known { namespace: namespace.to_owned(), name: name.to_owned(), sandbox, states, ..Known::default() };
            pods.insert(uid.to_owned(), known);
        }
    }

    /// A pod is over.
    pub fn forget(&self, uid: &str) {
        self.pods.lock().remove(uid);
    }

    /// A probe was carried out. One that comes late, when its pod is over, counts for nothing.
    pub fn probed(&self, uid: &str, container: &str, kind: ProbeKind, outcome: &Outcome) {
        let kind = match kind {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        };
        let result = match outcome {
            Outcome::Success(_) => 0,
            Outcome::Failure(_) => 1,
            Outcome::Unknown(_) => 2,
        };
        if let Some(known) = self.pods.lock().get_mut(uid) {
            known.probes.entry((container.to_owned(), kind)).or_default()[result] += 1;
        }
    }

    /// Appends everything but the probes.
    pub fn render(&self, out: &mut String) {
        let pods = self.pods.lock();
        let running = pods.values().filter(|pod| pod.sandbox).count();
        single(out, "kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox.", running);
        head(out, "kubelet_running_containers", "gauge", "Containers by state.");
        for (state, index) in STATES {
            let count: u64 = pods.values().map(|pod| pod.states[index as usize]).sum();
            sample(out, "kubelet_running_containers", &format!("container_state=\"{state}\""), count);
        }
        drop(pods);
        head(out, "kubelet_node_name", "gauge", "The node's name. The count is always 1.");
        sample(out, "kubelet_node_name", &format!("node=\"{}\"", escape(&self.node)), 1);
        let name = "kubelet_pod_start_duration_seconds";
        head(out, name, "histogram", "From seeing a pod first to the pod running.");
        histogram(out, name, "", &self.start, Unit::Micros);
        let name = "kubelet_pod_worker_duration_seconds";
        head(out, name, "histogram", "One turn of a pod's worker.");
        for (operation, turn) in TURNS {
            histogram(out, name, &format!("operation_type=\"{operation}\""), &self.turns[turn as usize], Unit::Micros);
        }
        let name = "knarr_pod_start_phase_seconds";
        head(
            out,
            name,
            "histogram",
            "Steps of starting pods that went well: volumes, sandbox and network by pod, the others by container.",
        );
        for (word, phase) in PHASES {
            histogram(out, name, &format!("phase=\"{word}\""), &self.phases[phase as usize], Unit::Micros);
        }
    }

    /// Appends how probes ended.
    pub fn render_probes(&self, out: &mut String) {
        head(out, "prober_probe_total", "counter", "Probes by container and result.");
        for (uid, pod) in self.pods.lock().iter() {
            for ((container, kind), counts) in &pod.probes {
                for (result, count) in RESULTS.iter().zip(counts).filter(|(_, count)| **count > 0) {
                    let (container, namespace, name, uid) = (escape(container), escape(&pod.namespace), escape(&pod.name), escape(uid));
                    let labels = format!(
                        "container=\"{container}\",namespace=\"{namespace}\",pod=\"{name}\",pod_uid=\"{uid}\",probe_type=\"{kind}\",result=\"{result}\""
                    );
                    sample(out, "prober_probe_total", &labels, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_their_probes_show_until_they_are_over() {
        let metrics = Metrics::new("node");
        let text = || {
            let mut text = String::new();
            metrics.render(&mut text);
            metrics.render_probes(&mut text);
            text
        };
        let good = Outcome::Success(String::new());
        metrics.note("u", "default", "p", true, [ContainerState::Running, ContainerState::Running, ContainerState::Exited].into_iter());
        metrics.probed("u", "c", ProbeKind::Liveness, &good);
        let probe =
            r#"prober_probe_total{container="c",namespace="default",pod="p",pod_uid="u",probe_type="Liveness",result="successful"} 1"#;
        for line in [
            "kubelet_running_pods 1",
            r#"kubelet_running_containers{container_state="running"} 2"#,
            r#"kubelet_running_containers{container_state="exited"} 1"#,
            probe,
        ] {
            assert!(text().lines().any(|one| one == line), "{line}");
        }
        metrics.forget("u");
        metrics.probed("u", "c", ProbeKind::Liveness, &good);
        assert!(text().contains("kubelet_running_pods 0\n") && !text().contains("pod_uid"));
    }
}
