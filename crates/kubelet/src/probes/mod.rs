//! Probes of running containers: one task per probe, with the thresholds and timing of the API.
//!
//! A probe speaks up only when its verdict changes. Timers exist only for containers that ask for probes.

use std::sync::Arc;
use std::time::Duration;

use client::EventKind;
use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use runtime::ContainerId;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use crate::Kubelet;
use crate::clock::now_ms;
use crate::pods::message::{Message, ProbeKind, ProbeVerdict};
use crate::pods::model;

pub mod exec;
pub mod grpc;
pub mod http;
pub mod tcp;

/// What one probe has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Success(String),
    /// It failed, and why.
    Failure(String),
    /// It could not be carried out; counts for nothing.
    Unknown(String),
}

/// A running container to be probed.
#[derive(Clone)]
pub struct Target {
    /// The node.
    pub kubelet: Arc<Kubelet>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Container,
    /// Which attempt runs.
    pub attempt: u32,
    /// Its name at the runtime.
    pub id: ContainerId,
    /// Where it runs.
    pub sandbox: Sandbox,
    /// Address of the pod.
    pub address: String,
    /// When it started, in milliseconds of even time.
    pub started_at: i64,
    /// The startup probe has passed, or there is none.
    pub started: bool,
    /// It was ready when last seen.
    pub ready: bool,
}

/// Starts the probes of a container; they end with their handles or with the container's worker.
pub fn run(target: Target, sender: &UnboundedSender<Message>) -> Vec<AbortHandle> {
    let probes = [
        (ProbeKind::Startup, target.container.startup_probe.clone()),
        (ProbeKind::Liveness, target.container.liveness_probe.clone()),
        (ProbeKind::Readiness, target.container.readiness_probe.clone()),
    ];
    let startup = tokio::sync::watch::Sender::new(target.started || target.container.startup_probe.is_none());
    let startup = Arc::new(startup);
    let start = |(kind, probe): (ProbeKind, Option<Probe>)| {
        let probe = probe?;
        if kind == ProbeKind::Startup && *startup.borrow() {
            return None;
        }
        Some(tokio::spawn(follow(target.clone(), kind, probe, startup.clone(), sender.clone())).abort_handle())
    };
    probes.into_iter().filter_map(start).collect()
}

async fn follow(
    target: Target,
    kind: ProbeKind,
    probe: Probe,
    startup: Arc<tokio::sync::watch::Sender<bool>>,
    sender: UnboundedSender<Message>,
) {
    if kind != ProbeKind::Startup {
        let mut started = startup.subscribe();
        if started.wait_for(|started| *started).await.is_err() {
            return;
        }
    }
    let seconds = |value: Option<i32>, default: i32| Duration::from_secs(value.unwrap_or(default).max(0) as u64);
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let first = target.started_at + seconds(probe.initial_delay_seconds, 0).as_millis() as i64;
    tokio::time::sleep(Duration::from_millis((first - now_ms()).max(0) as u64)).await;
    let needed = probe.success_threshold.unwrap_or(1).max(1);
    let allowed = probe.failure_threshold.unwrap_or(3).max(1);
    let mut healthy: Option<bool> = (kind == ProbeKind::Readiness).then_some(target.ready);
    let (mut good, mut bad) = (0, 0);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = once(&target, &probe).await;
        target.kubelet.metrics.probed(model::uid(&target.pod), &target.container.name, kind, &outcome);
        match outcome {
            Outcome::Success(_) => (good, bad) = (good + 1, 0),
            Outcome::Failure(why) => {
                (good, bad) = (0, bad + 1);
                let word = match kind {
                    ProbeKind::Startup => "Startup",
                    ProbeKind::Liveness => "Liveness",
                    ProbeKind::Readiness => "Readiness",
                };
                target.kubelet.event(
                    &target.pod,
                    &target.container.name,
                    EventKind::Warning,
                    "Unhealthy",
                    &format!("{word} probe failed: {why}"),
                );
            }
            Outcome::Unknown(why) => {
                let text = format!("{kind:?} probe errored and resulted in unknown state: {why}");
                target.kubelet.event(&target.pod, &target.container.name, EventKind::Warning, "Unhealthy", &text);
            }
        }
        let verdict = if good >= needed {
            Some(true)
        } else if bad >= allowed {
            Some(false)
        } else {
            None
        };
        if verdict.is_some() && verdict != healthy {
            healthy = verdict;
            let holds = verdict == Some(true);
            let grace = probe.termination_grace_period_seconds;
            let message = ProbeVerdict { name: target.container.name.clone(), attempt: target.attempt, kind, healthy: holds, grace };
            if sender.send(Message::Probe(message)).is_err() {
                return;
            }
            if kind == ProbeKind::Startup && holds {
                startup.send_replace(true);
                return;
            }
        }
    }
}

/// Carries a probe out once, within its timeout.
async fn once(target: &Target, probe: &Probe) -> Outcome {
    let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    if let Some(action) = &probe.exec {
        return exec::probe(target, action, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        return http::probe(target, action, timeout).await;
    }
    if let Some(action) = &probe.tcp_socket {
        return tcp::probe(target, action, timeout).await;
    }
    if let Some(action) = &probe.grpc {
        return grpc::probe(target, action, timeout).await;
    }
    Outcome::Unknown(format!("missing probe handler for {}", target.container.name))
}

/// A failure of the system in the words that users know from programs in Go, which are what they search for.
pub fn go_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

/// The number of a port that may be a name.
///
/// # Errors
/// No port of that name.
pub fn port(container: &Container, port: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString) -> Result<u16, String> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("couldn't find port: {name:?} in container {}", container.name))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}
