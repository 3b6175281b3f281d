//! What can happen to a pod: the one inbox of its worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::Pod;
use runtime::ContainerEvent;

use super::wiring::Wiring;
use crate::volumes::Mounted;

/// A message to a pod's worker.
pub enum Message {
    /// The API has a new version of the pod.
    Pod(Arc<Pod>),
    /// The pod is gone from the API: stop everything without telling it.
    Gone,
    /// The node throws the pod out: reason, message, grace in seconds.
    Evict {
        /// `Evicted` and the like.
        reason: String,
        /// For people.
        message: String,
        /// Seconds to stop.
        grace: i64,
        /// The node is to blame, not the pod: shows as the condition `DisruptionTarget`.
        disrupted: bool,
    },
    /// The runtime saw something.
    Runtime(ContainerEvent),
    /// Volumes and sandbox are ready, or not yet.
    Prepared(Result<Prepared, Trouble>),
    /// The pod has its network, or its sandbox was given up for want of one.
    Wired(Result<(), Trouble>),
    /// A start has come to its end.
    Started {
        /// Container.
        name: String,
        /// Which attempt.
        attempt: u32,
        /// How it went.
        result: Result<(), Trouble>,
    },
    /// A container waits for something; shows in its status.
    Waiting {
        /// Container.
        name: String,
        /// Reason and message.
        why: (String, String),
    },
    /// A stop has come to its end.
    Stopped {
        /// Container.
        name: String,
    },
    /// A probe has a verdict.
    Probe(ProbeVerdict),
    /// An object that the pod uses has changed.
    Poke,
    /// Something may be seen of the pod, or time has passed.
    Look,
    /// The API lost what it knew of the pod: its status is to be told again.
    Forgotten,
    /// Everything was released.
    Released,
}

/// A pod's ground: volumes, sandbox and addresses.
pub struct Prepared {
    /// Where each volume is.
    pub volumes: BTreeMap<String, Mounted>,
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Addresses of the pod.
    pub addresses: Vec<String>,
    /// What is missing of its network.
    pub wiring: Option<Wiring>,
}

/// Something that did not work and is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Reason as in `state.waiting.reason`, for example `ErrImagePull`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Whether the pod can never run (image name, rejected).
    pub image: bool,
}

impl Trouble {
    /// Trouble of a kind.
    pub fn new(reason: &str, message: impl Into<String>) -> Trouble {
        Trouble { reason: reason.to_owned(), message: message.into(), image: false }
    }
}

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Holds the others back until it passes.
    Startup,
    /// Restarts the container when it fails.
    Liveness,
    /// Takes the container out of services when it fails.
    Readiness,
}

/// What a probe has found after its thresholds.
#[derive(Debug, Clone)]
pub struct ProbeVerdict {
    /// Container.
    pub name: String,
    /// Attempt that was probed.
    pub attempt: u32,
    /// Which probe.
    pub kind: ProbeKind,
    /// Passed or failed.
    pub healthy: bool,
    /// Grace of the probe for a restart.
    pub grace: Option<i64>,
}
