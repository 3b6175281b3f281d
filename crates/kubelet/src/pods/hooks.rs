//! Lifecycle hooks: exec, HTTP, TCP and sleep.

use std::sync::Arc;
use std::time::Duration;

use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use runtime::ContainerId;

use crate::Kubelet;
use crate::probes;

/// Output of a hook that is kept for its event.
const MAX_OUTPUT: usize = 4096;

/// Where a hook runs.
pub struct Context<'a> {
    /// The node.
    pub kubelet: &'a Arc<Kubelet>,
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Its attempt.
    pub id: &'a ContainerId,
    /// Its sandbox.
    pub sandbox: &'a Sandbox,
    /// Addresses of the pod.
    pub addresses: &'a [String],
}

/// Runs a hook to its end.
///
/// # Errors
/// The text of the event that tells the failure.
pub async fn run(context: &Context<'_>, hook: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let argv = exec.command.clone().unwrap_or_default();
        let result = context.sandbox.exec_sync(context.id, argv.clone(), None, MAX_OUTPUT).await;
        return match result {
            Ok(output) if output.exit.success() => Ok(()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                Err(format!("command '{}' exited with {}: {text}", argv.join(" "), output.exit.code))
            }
            Err(error) => Err(format!("command '{}': {error}", argv.join(" "))),
        };
    }
    if let Some(http) = &hook.http_get {
        let address = context.addresses.first().map_or("127.0.0.1", String::as_str);
        // Any answer will do: the hook tells, it does not ask.
        return probes::http::get(http, context.container, address, Duration::from_secs(30)).await.map(drop);
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
        return Ok(());
    }
    if hook.tcp_socket.is_some() {
        // Upstream accepts the field and has never run it.
        return Ok(());
    }
    Err(format!("no handler in the hook of container {}", context.container.name))
}
