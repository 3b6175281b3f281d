//! Stops a container: preStop hook, its stop signal, and the kill when the grace is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::EventKind;
use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::Pod;
use runtime::ContainerId;
use tokio::sync::mpsc::UnboundedSender;

use super::hooks;
use super::message::Message;
use super::model::{self, Member};
use crate::Kubelet;

/// What to stop.
pub struct Order {
    /// The node.
    pub kubelet: Arc<Kubelet>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub member: Member,
    /// Its attempt at the runtime.
    pub id: ContainerId,
    /// Signal that asks it to stop.
    pub signal: i32,
    /// Where it runs.
    pub sandbox: Sandbox,
    /// Addresses of the pod, for HTTP hooks.
    pub addresses: Vec<String>,
    /// Seconds that it has, the hook included.
    pub grace: i64,
    /// Where to report.
    pub sender: UnboundedSender<Message>,
}

/// Carries out a stop and reports.
pub async fn stop(order: Order) {
    let began = Instant::now();
    let grace = Duration::from_secs(order.grace.max(0) as u64);
    let hook = order.member.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(hook) = hook.filter(|_| order.grace > 0) {
        let context = hooks::Context {
            kubelet: &order.kubelet,
            pod: &order.pod,
            container: &order.member.spec,
            id: &order.id,
            sandbox: &order.sandbox,
            addresses: &order.addresses,
        };
        match tokio::time::timeout(grace, hooks::run(&context, hook)).await {
            Ok(Ok(())) => {}
            failed => {
                // What a hook says may be secret: it is for the node's log, not for everybody who reads events.
                let why =
                    failed.map_or_else(|_| "it did not end within the grace period".to_owned(), |failed| failed.err().unwrap_or_default());
                tracing::info!(pod = model::name(&order.pod), container = order.member.spec.name, why, "preStop hook failed");
                order.kubelet.event(&order.pod, &order.member.spec.name, EventKind::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
        }
    }
    // What the hook used is gone, but every container has two seconds to hear its signal.
    let least = if order.grace > 0 { Duration::from_secs(2).min(grace) } else { Duration::ZERO };
    let left = grace.saturating_sub(began.elapsed()).max(least);
    if let Err(error) = order.sandbox.stop(&order.id, order.signal, left).await {
        tracing::debug!(container = %order.id, %error, "stop");
    }
    let _ = order.sender.send(Message::Stopped { name: order.member.spec.name.clone() });
}
