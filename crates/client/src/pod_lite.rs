//! What controllers need of a pod without decoding it: kept beside every pod version.

use api::Object;
use serde_json::Value;

/// The small projection of a pod; a list of ten thousand pods is judged by these alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodLite {
    /// `status.phase`.
    pub phase: Phase,
    /// Condition `Ready` is true.
    pub ready: bool,
    /// When `Ready` became what it is, in seconds since the epoch; 0 if unknown.
    pub ready_since: i64,
    /// Whether a node was chosen.
    pub scheduled: bool,
    /// Priority of the pod.
    pub priority: i32,
}

/// Phase of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepted, not all containers were started.
    Pending,
    /// At least one container runs or starts.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, one badly.
    Failed,
    /// The node does not answer.
    Unknown,
}

impl PodLite {
    /// Paths that the projection reads: (top field, second field).
    pub(crate) const PATHS: &'static [(&'static str, &'static str)] =
        &[("status", "conditions"), ("status", "phase"), ("spec", "nodeName"), ("spec", "priority")];

    /// Reads the projection off a decoded (or pruned) pod.
    pub fn of(pod: &Object) -> PodLite {
        let ready = pod
            .at(&["status", "conditions"])
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Ready");
        let since = ready.and_then(|condition| condition["lastTransitionTime"].as_str()).unwrap_or("");
        PodLite {
            phase: match pod.text_at(&["status", "phase"]) {
                "Running" => Phase::Running,
                "Succeeded" => Phase::Succeeded,
                "Failed" => Phase::Failed,
                "Unknown" => Phase::Unknown,
                _ => Phase::Pending,
            },
            ready: ready.is_some_and(|condition| condition["status"] == "True"),
            ready_since: since.parse::<k8s_openapi::jiff::Timestamp>().map_or(0, |time| time.as_second()),
            scheduled: !pod.text_at(&["spec", "nodeName"]).is_empty(),
            priority: pod.at(&["spec", "priority"]).and_then(Value::as_i64).unwrap_or(0) as i32,
        }
    }

    /// Whether the pod has ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}
